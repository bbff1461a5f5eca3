"""Common GPUs: memory, peak arithmetic and bandwidth, from their makers' data sheets. Dense peaks, without sparsity."""

from dataclasses import dataclass

from pipeline.errors import RecipeError, suggestion

GB = 10**9


@dataclass(frozen=True)
class GPU:
    """One device. Peaks in FLOP/s, memory in bytes as its name says it (80 GB: 80e9), bandwidth in bytes/s."""

    name: str
    memory: int
    bf16: float | None
    """None where the device does not multiply bf16 fast."""
    fp16: float
    fp32: float
    """Of ordinary fp32, not TF32."""
    bandwidth: float
    source: str

    def peak(self, compute: int) -> float:
        """FLOP/s of the arithmetic that a recipe's precision stands for: 4 bytes are fp32, 2 bytes bf16 (or fp16 where that is all there is)."""
        return self.fp32 if compute == 4 else self.bf16 or self.fp16


def _gpu(name: str, memory: int, bf16: float | None, fp16: float, fp32: float, bandwidth: float, source: str) -> GPU:
    return GPU(name, memory * GB, bf16 * 1e12 if bf16 else None, fp16 * 1e12, fp32 * 1e12, bandwidth * 1e9, source)


GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("v100", 32, None, 125, 15.7, 900, "NVIDIA V100 datasheet (SXM2)"),
        _gpu("t4", 16, None, 65, 8.1, 320, "NVIDIA T4 datasheet"),
        _gpu("a10g", 24, 70, 70, 35, 600, "AWS G5 instances and NVIDIA A10G datasheet"),
        _gpu("rtx3090", 24, 71, 71, 35.6, 936, "NVIDIA GA102 white paper, fp32 accumulation"),
        _gpu("rtx4090", 24, 165.2, 165.2, 82.6, 1008, "NVIDIA Ada GPU architecture white paper, fp32 accumulation"),
        _gpu("l4", 24, 121, 121, 30.3, 300, "NVIDIA L4 datasheet, without sparsity"),
        _gpu("l40s", 48, 362, 362, 91.6, 864, "NVIDIA L40S datasheet, without sparsity"),
        _gpu("a100", 80, 312, 312, 19.5, 2039, "NVIDIA A100 80GB datasheet (SXM)"),
        _gpu("a100-40gb", 40, 312, 312, 19.5, 1555, "NVIDIA A100 40GB datasheet (SXM)"),
        _gpu("h100", 80, 989.4, 989.4, 66.9, 3350, "NVIDIA H100 datasheet (SXM5), without sparsity"),
        _gpu("h200", 141, 989.4, 989.4, 66.9, 4800, "NVIDIA H200 datasheet (SXM), without sparsity"),
        _gpu("b200", 180, 2250, 2250, 75, 7700, "NVIDIA DGX B200 datasheet, an eighth of it, without sparsity"),
        _gpu("mi250x", 128, 383, 383, 47.9, 3277, "AMD Instinct MI250X data sheet; both dies together"),
        _gpu("mi300x", 192, 1307.4, 1307.4, 163.4, 5300, "AMD Instinct MI300X data sheet, without sparsity"),
    )
}


def gpu_named(name: str) -> GPU:
    """A device of the table. Raises RecipeError with the nearest name."""
    key = name.lower().replace(" ", "").replace("_", "-")
    if key not in GPUS:
        raise RecipeError(f"--gpu: found '{name}', wanted one of {', '.join(GPUS)}{suggestion(key, GPUS)}")
    return GPUS[key]


UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def size_of(text: str) -> int:
    """Bytes of `80GB`, `79.6GiB` or `80` (GB). Raises RecipeError."""
    word = text.strip().upper().replace(" ", "")
    number = word.rstrip("KMGTIB")
    unit = word[len(number) :] or "GB"
    try:
        if unit not in UNITS or float(number) <= 0:
            raise ValueError
        return int(float(number) * UNITS[unit])
    except ValueError as error:
        raise RecipeError(f"--gpu-memory: found '{text}', wanted a size such as 80GB or 79.6GiB") from error
