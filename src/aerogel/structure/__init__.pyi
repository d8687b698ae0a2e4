from .config import StructureConfig as StructureConfig
from .latency import (
    LatencyTable as LatencyTable,
    Measure as Measure,
    TorchMeasure as TorchMeasure,
    latency_table as latency_table,
)
from .plan import (
    KeptHeads as KeptHeads,
    KeptNeurons as KeptNeurons,
    Plan as Plan,
    Removed as Removed,
    read_plan as read_plan,
    removed as removed,
)
from .prune import Structure as Structure, prune_structure as prune_structure
from .removal import Removal as Removal
from .shrink import shrink as shrink
from .sublayers import InputRows as InputRows, Kind as Kind, SubLayer as SubLayer, sublayers as sublayers
from .uniform import shrink_uniform as shrink_uniform
