"""PP-LCNetV2: PP-LCNet with ReLU, and with large depthwise kernels that are trained as sums of several sizes.

Described at https://github.com/PaddlePaddle/PaddleClas/blob/release/2.6/docs/zh_CN/models/ImageNet1k/PP-LCNetV2.md
"""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import relu, sigmoid

from .layers import ConvBN, SqueezeExcite, make_divisible
from .mobileone import fill, folded
from .pplcnet import Classifier


class PlainBlock(nn.Layer):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.dw_conv = ConvBN(inputs, inputs, 3, stride, groups=inputs, activation=relu)
        self.pw_conv = ConvBN(inputs, outputs, activation=relu)

    def forward(self, x):
        return self.pw_conv(self.dw_conv(x))


class SumBlock(nn.Layer):
    """The depthwise half of a block: kernels of 5, 3 and, unless the image is halved, 1; `fuse` makes them one.

    PaddleClas has the fused convolution in the training form too, without using it; so has this, as weights name it.
    """

    def __init__(self, inputs, stride):
        super().__init__()
        kernels = (5, 3, 1) if stride == 1 else (5, 3)
        self.dw_conv_list = nn.LayerList([ConvBN(inputs, inputs, k, stride, groups=inputs) for k in kernels])
        self.dw_conv = nn.Conv2D(inputs, inputs, 5, stride, padding=2, groups=inputs)
        self.fused = False

    def depthwise(self, x):
        return relu(self.dw_conv(x) if self.fused else paddle.add_n([branch(x) for branch in self.dw_conv_list]))

    def fuse(self):
        fill(self.dw_conv, [folded(branch.conv.weight, branch.bn) for branch in self.dw_conv_list])
        del self.dw_conv_list
        self.fused = True


class GatedBlock(SumBlock):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, stride)
        self.se = SqueezeExcite(inputs, gate=sigmoid)
        self.pw_conv_1 = ConvBN(inputs, outputs // 2, activation=relu)
        self.pw_conv_2 = ConvBN(outputs // 2, outputs, activation=relu)

    def forward(self, x):
        return self.pw_conv_2(self.pw_conv_1(self.se(self.depthwise(x))))


class ResidualBlock(SumBlock):
    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, stride)
        self.pw_conv = ConvBN(inputs, outputs, activation=relu)
        self.shortcut = stride == 1

    def forward(self, x):
        y = self.pw_conv(self.depthwise(x))
        return x + y if self.shortcut else y


class PPLCNetV2(Classifier):
    def __init__(self, scale, depths):
        super().__init__(make_divisible(1024 * scale), relu)
        stem, inputs = make_divisible(32 * scale), make_divisible(64 * scale)
        self.stem = nn.Sequential(ConvBN(3, stem, 3, stride=2, activation=relu), PlainBlock(stem, inputs, 1))
        stages = []
        kinds = PlainBlock, PlainBlock, GatedBlock, ResidualBlock
        for block, channels, depth in zip(kinds, (128, 256, 512, 1024), depths, strict=True):
            outputs = make_divisible(channels * scale)
            tail = [block(outputs, outputs, 1) for _ in range(depth - 1)]
            stages.append(nn.Sequential(block(inputs, outputs, 2), *tail))
            inputs = outputs
        self.stages = nn.Sequential(*stages)

    def forward(self, x):
        return self.classify(self.stages(self.stem(x)))

    @paddle.no_grad()
    def fuse(self):
        for layer in self.sublayers():
            if isinstance(layer, SumBlock):
                layer.fuse()


PPLCNetV2_small = partial(PPLCNetV2, 0.75, (2, 2, 4, 2))
PPLCNetV2_base = partial(PPLCNetV2, 1.0, (2, 2, 6, 2))
PPLCNetV2_large = partial(PPLCNetV2, 1.25, (2, 2, 8, 2))
