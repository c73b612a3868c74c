"""DPN, dual path networks (https://arxiv.org/abs/1707.01629): a residual path and a dense path side by side."""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import max_pool2d, relu

from .layers import BatchNormConv, ConvBatchNorm, mean_over_image


class DualPath(nn.Layer):
    """Adds to the residual path, appends to the dense path. The first block of a stage projects its input to both."""

    def __init__(self, inputs, middle, residual, growth, groups, stride=1, project=False):
        super().__init__()
        self.c1x1_w_func = BatchNormConv(inputs, residual + 2 * growth, stride=stride) if project else None
        self.c1x1_a_func = BatchNormConv(inputs, middle)
        self.c3x3_b_func = BatchNormConv(middle, middle, 3, stride, groups)
        self.c1x1_c_func = BatchNormConv(middle, residual + growth)
        self.residual, self.growth = residual, growth

    def forward(self, paths):
        x = paddle.concat(paths, axis=1) if len(paths) > 1 else paths[0]
        if self.c1x1_w_func:
            paths = paddle.split(self.c1x1_w_func(x), [self.residual, 2 * self.growth], axis=1)
        y = self.c1x1_c_func(self.c3x3_b_func(self.c1x1_a_func(x)))
        added, appended = paddle.split(y, [self.residual, self.growth], axis=1)
        return [paths[0] + added, paddle.concat([paths[1], appended], axis=1)]


class DPN(nn.Layer):
    """`residual` and `middle` are the widths of the first stage; each later stage doubles them."""

    def __init__(self, stem, kernel, blocks, growths, residual, middle, groups, classes=1000):
        super().__init__()
        self.conv1_x_1_func = ConvBatchNorm(3, stem, kernel, stride=2, activation=relu)
        self.blocks = []
        channels = stem
        for stage in range(4):
            widths = middle * 2**stage, residual * 2**stage, growths[stage], groups
            self._append(DualPath(channels, *widths, stride=2 if stage else 1, project=True))
            channels = residual * 2**stage + 3 * growths[stage]
            for _ in range(blocks[stage] - 1):
                self._append(DualPath(channels, *widths))
                channels += growths[stage]
        self.conv5_x_x_bn = nn.BatchNorm2D(channels)
        self.out = nn.Linear(channels, classes)

    def _append(self, block):
        self.blocks.append(self.add_sublayer(f"dpn{len(self.blocks) + 1}", block))

    def forward(self, x):
        paths = [max_pool2d(self.conv1_x_1_func(x), 3, stride=2, padding=1)]
        for block in self.blocks:
            paths = block(paths)
        x = relu(self.conv5_x_x_bn(paddle.concat(paths, axis=1)))
        return self.out(mean_over_image(x))


DPN68 = partial(DPN, 10, 3, (3, 4, 12, 3), (16, 32, 32, 64), residual=64, middle=128, groups=32)
DPN92 = partial(DPN, 64, 7, (3, 4, 20, 3), (16, 32, 24, 128), residual=256, middle=96, groups=32)
DPN98 = partial(DPN, 96, 7, (3, 6, 20, 3), (16, 32, 32, 128), residual=256, middle=160, groups=40)
DPN107 = partial(DPN, 128, 7, (4, 8, 20, 3), (20, 64, 64, 128), residual=256, middle=200, groups=50)
DPN131 = partial(DPN, 128, 7, (4, 8, 28, 3), (16, 32, 32, 128), residual=256, middle=160, groups=40)
