"""Room for further tokens in the caches of transformers, which otherwise copy all keys and values for each."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, StaticCache, StaticLayer

from aerogel.runtime.kernel import required

LEAST, GROWTH = 64, 1.5  # tokens that there is room for at least, and times the tokens that there are


@dataclass
class Room:
    """The keys and values of one block, each (batch, key heads, capacity, head size); `length` tokens are used.

    `shown` is what the layer of the cache has: views of them. A layer that has other tensors was changed by someone
    else, or continues the same text in another way, and gets a room of its own.
    """

    keys: Tensor
    values: Tensor
    length: int
    shown: tuple[Tensor, Tensor]

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    @property
    def native(self) -> Any:
        return required().Cache(self.keys.data_ptr(), self.values.data_ptr(), self.capacity)


def rooms(cache: Cache, numbers: list[int], batch: int) -> list[Room] | None:
    """A room with space for one more token for each of these layers, or `None` if the cache is of another kind."""
    if (
        type(cache) not in (DynamicCache, StaticCache)
        or getattr(cache, "offloading", True)
        or max(numbers) >= len(cache.layers)
    ):
        return None
    found: list[Room] = []
    for number in numbers:
        room = _room(cache.layers[number], batch)
        if room is None or room.length != (found or [room])[0].length:
            return None
        found.append(room)
    return found


def _room(layer: Any, batch: int) -> Room | None:
    if type(layer) is DynamicLayer:
        room = cast(Room | None, layer.__dict__.get("aerogel_room"))
        if room and layer.keys is room.shown[0] and layer.values is room.shown[1] and room.length < room.capacity:
            return room
    elif type(layer) is not StaticLayer:
        return None
    keys, values = layer.keys, layer.values
    if not all(_is_plain(tensor, batch) for tensor in (keys, values)) or keys.shape != values.shape:
        return None
    if type(layer) is StaticLayer:
        length = int(layer.cumulative_length)
        fits = length < keys.shape[2] and keys.is_contiguous() and values.is_contiguous()
        return Room(keys, values, length, (keys, values)) if fits else None
    length = keys.shape[2]
    capacity = max(LEAST, int(GROWTH * length))
    room = Room(_enlarged(keys, capacity), _enlarged(values, capacity), length, (keys, values))
    layer.aerogel_room = room
    return room


def _enlarged(tensor: Tensor, capacity: int) -> Tensor:
    larger = tensor.new_empty((*tensor.shape[:2], capacity, tensor.shape[3]))
    larger[:, :, : tensor.shape[2]] = tensor
    return larger


def _is_plain(tensor: Tensor | None, batch: int) -> bool:
    return type(tensor) is Tensor and tensor.dtype == torch.float32 and tensor.is_cpu and tensor.shape[:1] == (batch,)


def show(cache: Cache, numbers: list[int], found: list[Room]) -> None:
    """Shows the layers of the cache the token that was written into their rooms."""
    for number, room in zip(numbers, found, strict=True):
        layer: Any = cache.layers[number]
        room.length += 1
        if type(layer) is StaticLayer:
            layer.cumulative_length.add_(1)
        else:
            room.shown = room.keys.narrow(2, 0, room.length), room.values.narrow(2, 0, room.length)
            layer.keys, layer.values = room.shown
