"""DeepSpeed's kernel for messages between processes of one CPU, which it compiles on a machine's first start."""

import fcntl
from pathlib import Path


def build_kernels() -> None:
    """Compile the kernel, where it is wanted and not there yet, by one process at a time; a minute on the first start, then nothing.

    torch marks a build by an empty file and waits for as long as that is there. A process that is killed while it builds leaves it, and every
    later one would wait without end. Here builders stand in line for a lock that ends with its process, so that whoever holds it knows such a
    file to be a leftover.
    """
    from deepspeed.accelerator import get_accelerator
    from torch.utils.cpp_extension import _get_build_directory

    if get_accelerator().device_name() != "cpu":
        return
    builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not builder.is_compatible(False):
        return  # DeepSpeed goes without it
    folder = Path(_get_build_directory(builder.name, False))
    with (folder.parent / f"{builder.name}.line").open("ab") as line:
        fcntl.flock(line, fcntl.LOCK_EX)
        (folder / "lock").unlink(missing_ok=True)
        builder.load(False)
