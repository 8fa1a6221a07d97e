"""The shapes of the parameters of well-known networks, in the order of their layers."""

from __future__ import annotations

Shape = tuple[int, ...]


def resnet50() -> list[Shape]:
    """25.6 million numbers in 161 arrays: convolutions, and scale and shift of each normalization."""
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            wide = 4 * width
            kernels = [(width, channels, 1, 1), (width, width, 3, 3), (wide, width, 1, 1)]
            if block == 0:
                kernels.append((wide, channels, 1, 1))  # past the block
            for kernel in kernels:
                shapes += [kernel, kernel[:1], kernel[:1]]
            channels = wide
    return [*shapes, (1000, 2048), (1000,)]


def gpt2_small() -> list[Shape]:
    """124 million numbers in 148 arrays: two tables, and twelve blocks of width 768."""
    width, layers, vocabulary, context = 768, 12, 50_257, 1024
    norm: list[Shape] = [(width,), (width,)]
    attention: list[Shape] = [(width, 3 * width), (3 * width,), (width, width), (width,)]
    network: list[Shape] = [(width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    block = [*norm, *attention, *norm, *network]
    return [(vocabulary, width), (context, width), *(layers * block), *norm]


MODELS = {"ResNet-50": resnet50, "GPT-2 small": gpt2_small}
