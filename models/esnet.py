"""ESNet (https://arxiv.org/abs/2111.00902): ShuffleNetV2 with gates, and convolutions in place of some shuffles."""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import hardswish

from .layers import ConvBN, SqueezeExcite, make_divisible
from .pplcnet import Classifier
from .shufflenet_v2 import shuffle

BLOCKS = 3, 7, 3


class Block(nn.Layer):
    def __init__(self, channels):
        super().__init__()
        half = channels // 2
        self.pw_1_1 = ConvBN(half, half, activation=hardswish)
        self.dw_1 = ConvBN(half, half, 3, groups=half)
        self.se = SqueezeExcite(channels)
        self.pw_1_2 = ConvBN(channels, half, activation=hardswish)

    def forward(self, x):
        untouched, x = paddle.split(x, 2, axis=1)
        x = self.pw_1_1(x)
        x = self.se(paddle.concat([x, self.dw_1(x)], axis=1))
        return shuffle(paddle.concat([untouched, self.pw_1_2(x)], axis=1))


class DownBlock(nn.Layer):
    """Halves the image; a depthwise and a pointwise convolution take the place of the shuffle."""

    def __init__(self, inputs, outputs):
        super().__init__()
        half = outputs // 2
        self.dw_1 = ConvBN(inputs, inputs, 3, stride=2, groups=inputs)
        self.pw_1 = ConvBN(inputs, half, activation=hardswish)
        self.pw_2_1 = ConvBN(inputs, half, activation=hardswish)
        self.dw_2 = ConvBN(half, half, 3, stride=2, groups=half)
        self.se = SqueezeExcite(half)
        self.pw_2_2 = ConvBN(half, half, activation=hardswish)
        self.concat_dw = ConvBN(outputs, outputs, 3, groups=outputs, activation=hardswish)
        self.concat_pw = ConvBN(outputs, outputs, activation=hardswish)

    def forward(self, x):
        first = self.pw_1(self.dw_1(x))
        second = self.pw_2_2(self.se(self.dw_2(self.pw_2_1(x))))
        return self.concat_pw(self.concat_dw(paddle.concat([first, second], axis=1)))


class ESNet(Classifier):
    def __init__(self, scale):
        super().__init__(1024, hardswish)
        inputs = 24
        self.conv1 = ConvBN(3, inputs, 3, stride=2, activation=hardswish)
        self.max_pool = nn.MaxPool2D(3, stride=2, padding=1)
        blocks = []
        for channels, count in zip((116, 232, 464), BLOCKS, strict=True):
            outputs = make_divisible(channels * scale)
            blocks += [DownBlock(inputs, outputs)] + [Block(outputs) for _ in range(count - 1)]
            inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBN(inputs, 1024, activation=hardswish)

    def forward(self, x):
        return self.classify(self.conv2(self.blocks(self.max_pool(self.conv1(x)))))


ESNet_x0_25 = partial(ESNet, 0.25)
ESNet_x0_5 = partial(ESNet, 0.5)
ESNet_x0_75 = partial(ESNet, 0.75)
ESNet_x1_0 = partial(ESNet, 1.0)
