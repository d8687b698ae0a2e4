"""The Ray cluster that this machine belongs to: the connection, its nodes, and the versions on them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aerogel.errors import StudyError, first_line
from aerogel.study.executors.node import version_difference, versions
from aerogel.study.parts import ResourcesPart

CONNECT_WITHIN, ANSWER_WITHIN = 5.0, 600.0  # seconds: for a connection, and for all nodes to import aerogel
HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # with empty settings, see RFC 9113
SETTINGS_FRAME = 4  # the first answer of a server of gRPC
SETTINGS = ("HF_HUB_OFFLINE", "AEROGEL_NATIVE", "AEROGEL_ISA")  # of this process, which hold on all nodes


@dataclass(frozen=True)
class Node:
    """A node that is alive; `memory` is what Ray may give to tasks, in bytes."""

    id: str
    name: str
    cpus: int
    gpus: float
    memory: float

    def has(self, resources: ResourcesPart) -> bool:
        return (
            self.cpus >= (resources.cpus or 1)
            and self.gpus >= resources.gpus
            and self.memory >= 1e9 * (resources.memory_gb or 0)
        )

    def strategy(self, soft: bool = False) -> NodeAffinitySchedulingStrategy:
        """Runs a task on this node; if `soft`, on another where this one is gone."""
        return NodeAffinitySchedulingStrategy(self.id, soft)


def nodes() -> list[Node]:
    """The nodes that can run trials, in the order of their names."""
    alive = [entry for entry in ray.nodes() if entry["Alive"] and entry["Resources"].get("CPU", 0) >= 1]
    found = [
        Node(
            id=entry["NodeID"],
            name=entry["NodeName"],
            cpus=int(entry["Resources"]["CPU"]),
            gpus=entry["Resources"].get("GPU", 0.0),
            memory=entry["Resources"].get("memory", 0.0),
        )
        for entry in alive
    ]
    return sorted(found, key=lambda node: (node.name, node.id))


def connect(address: str) -> None:
    """Connects this process to a cluster: of HOST:PORT, else of `RAY_ADDRESS`, else to one that runs on this machine.

    Raises `StudyError` after a few seconds if that is not possible.
    """
    if ray.is_initialized():
        raise StudyError("this process is already connected to a Ray cluster: call ray.shutdown() first")
    address = address or os.environ.get("RAY_ADDRESS", "auto")
    if address != "auto":
        _check_reachable(address)
    settings = {name: os.environ[name] for name in SETTINGS if name in os.environ}
    try:
        with _kept_handler():
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                runtime_env={"env_vars": settings} if settings else None,
            )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        hint = "start one with `ray start --head`, or use --executor ray:HOST:PORT" if address == "auto" else ""
        raise StudyError(f"Ray cluster {address}: {first_line(error)}{hint and ': '}{hint}") from error


def _check_reachable(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise StudyError(f"Ray cluster {address!r}: expected HOST:PORT, that of the head node, such as 10.0.0.1:6379")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_WITHIN) as connection:
            connection.sendall(HTTP2_HELLO)  # Ray itself would wait minutes for a server that is not one of gRPC
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        reason = f"no answer within {CONNECT_WITHIN:g} s" if isinstance(error, TimeoutError) else first_line(error)
        raise StudyError(f"Ray cluster {address}: can't be reached ({reason}): is the head node running?") from error
    if answer[3:4] != bytes([SETTINGS_FRAME]):
        raise StudyError(f"Ray cluster {address}: the server at this address is not the head node of a Ray cluster")


@contextlib.contextmanager
def _kept_handler() -> Iterator[None]:
    """Keeps this process's handler of SIGTERM, which Ray replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def check_versions(nodes: list[Node]) -> None:
    """Raises `StudyError`, naming node and version, unless all nodes have the versions of this process."""
    ask = ray.remote(num_cpus=0, max_retries=0)(lambda: versions())  # Ray takes no cached function
    answers = {ask.options(scheduling_strategy=node.strategy()).remote(): node for node in nodes}
    ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_WITHIN)
    for answer, node in answers.items():
        try:
            difference = version_difference(ray.get(answer, timeout=0), versions())
        except ray.exceptions.GetTimeoutError as error:
            raise StudyError(f"node {node.name} did not answer within {ANSWER_WITHIN:g} s") from error
        except ray.exceptions.RayError as error:
            reason = first_line(getattr(error, "cause", None) or error)
            raise StudyError(f"node {node.name}: aerogel can't be used there: {reason}") from error
        if difference:
            raise StudyError(f"node {node.name} has {difference}: install the same versions on all nodes")
