from .plan import (
    KeptHeads as KeptHeads,
    KeptNeurons as KeptNeurons,
    Plan as Plan,
    Removed as Removed,
    read_plan as read_plan,
    removed as removed,
)
from .shrink import shrink as shrink
from .sublayers import InputRows as InputRows, Kind as Kind, SubLayer as SubLayer, sublayers as sublayers
from .uniform import shrink_uniform as shrink_uniform
