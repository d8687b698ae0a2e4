"""Check the installed wheel: its tag is true, its kernels run, and a packed model scores as its dense one does.

python tools/check_wheel.py

`make wheels` and cibuildwheel run it in an environment with nothing else, outside of the source tree.
"""

from __future__ import annotations

import sys
import sysconfig
from importlib.metadata import distribution
from pathlib import Path

TOLERANCE = 1e-4  # of a loss, in nats: float32 rounding


def require(right: bool, message: str) -> None:
    if not right:
        sys.exit(f"error: {message}")


def check_tag(file: Path) -> str:
    """The tag of the wheel, which must say what `file`, the compiled module, is."""
    text = distribution("aerogel").read_text("WHEEL") or ""
    tags = [line.removeprefix("Tag: ") for line in text.splitlines() if line.startswith("Tag: ")]
    require(bool(tags), "the installed aerogel was not installed from a wheel")
    python, abi = tags[0].split("-")[:2]
    stable = sys.version_info >= (3, 12)
    expected = ("cp312", "abi3") if stable else ("cp311", "cp311")
    require((python, abi) == expected, f"the wheel has the tag {tags[0]}: expected {'-'.join(expected)}")
    if sys.platform != "win32":  # where both end in .pyd; `abi3audit` reads what is in the file
        suffix = ".abi3.so" if stable else sysconfig.get_config_var("EXT_SUFFIX")
        require(file.name == f"native{suffix}", f"the wheel {tags[0]} has {file.name}: expected native{suffix}")
    return tags[0]


def main() -> None:
    import aerogel
    from aerogel.runtime.kernel import native

    module = native()
    require(module is not None, "the compiled kernels can't be imported")
    file = Path(str(module.__file__))
    require("site-packages" in file.parts, f"{file} is not of an installed wheel: run this outside of the source tree")
    tag = check_tag(file)
    model, tokenizer = aerogel.load("tiny-gpt2")
    aerogel.prune(model, sparsity=0.8)
    dense = aerogel.evaluate(model, tokenizer, "python-reference", limit=8)["python-reference"]["loss"]
    aerogel.compress(model)
    packed = aerogel.evaluate(model, tokenizer, "python-reference", limit=8)["python-reference"]["loss"]
    require(
        abs(dense - packed) < TOLERANCE,
        f"the loss of tiny-gpt2 is {dense} dense and {packed} packed: expected the same",
    )
    print(f"{tag}, Python {sys.version.split()[0]}, {module.instruction_set()}: loss {dense:.6f}, packed {packed:.6f}")


if __name__ == "__main__":
    main()
