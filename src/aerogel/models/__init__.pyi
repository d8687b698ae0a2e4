from .card import Provenance as Provenance
from .device import to_device as to_device
from .inner import inner_model as inner_model
from .loading import (
    Architecture as Architecture,
    Head as Head,
    architecture as architecture,
    has_tokenizer as has_tokenizer,
    head_kind as head_kind,
    load as load,
    load_model as load_model,
    load_tokenizer as load_tokenizer,
    prepare as prepare,
    stored_dtypes as stored_dtypes,
)
from .mode import evaluating as evaluating
from .prunable import (
    PackedLayer as PackedLayer,
    PrunableWeight as PrunableWeight,
    parameter_count as parameter_count,
    prunable_weights as prunable_weights,
)
from .saving import save as save
from .zoo import ZOO as ZOO, ZooEntry as ZooEntry, offline_names as offline_names
