"""Blocks that several families share, with the sublayer names of PaddleClas.

PaddleClas spells a convolution and its batch norm in two ways, `conv` and `bn` or `_conv` and
`_batch_norm`. Parameter names follow from them, so there is a class for each spelling.
"""

from paddle import nn
from paddle.nn.functional import adaptive_avg_pool2d, hardsigmoid, relu


def make_divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than a tenth below `channels`."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * channels else nearest + divisor


def convolution(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2D:
    """Without bias, and padded so that stride alone shrinks the image."""
    return nn.Conv2D(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias_attr=False)


def mean_over_image(x):
    """Global average pooling: [batch, channels, height, width] to [batch, channels]."""
    return adaptive_avg_pool2d(x, 1).flatten(1)


class ConvBN(nn.Layer):
    """Convolution, batch norm (`conv`, `bn`) and, if given, a function as activation."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, activation=None):
        super().__init__()
        self.conv = convolution(inputs, outputs, kernel, stride, groups)
        self.bn = nn.BatchNorm2D(outputs)
        self.activation = activation

    def forward(self, x):
        x = self.bn(self.conv(x))
        return self.activation(x) if self.activation else x


class ConvBatchNorm(nn.Layer):
    """The same as `ConvBN`, spelt `_conv` and `_batch_norm`."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1, activation=None):
        super().__init__()
        self._conv = convolution(inputs, outputs, kernel, stride, groups)
        self._batch_norm = nn.BatchNorm2D(outputs)
        self.activation = activation

    def forward(self, x):
        x = self._batch_norm(self._conv(x))
        return self.activation(x) if self.activation else x


class BatchNormConv(nn.Layer):
    """The pre-activation order: batch norm, ReLU, convolution (`_batch_norm`, `_conv`)."""

    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1):
        super().__init__()
        self._batch_norm = nn.BatchNorm2D(inputs)
        self._conv = convolution(inputs, outputs, kernel, stride, groups)

    def forward(self, x):
        return self._conv(relu(self._batch_norm(x)))


class SqueezeExcite(nn.Layer):
    """Weighs channels by a gate computed from their means (`conv1`, `conv2`)."""

    def __init__(self, channels, gate=hardsigmoid):
        super().__init__()
        self.conv1 = nn.Conv2D(channels, channels // 4, 1)
        self.conv2 = nn.Conv2D(channels // 4, channels, 1)
        self.gate = gate

    def forward(self, x):
        means = adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.conv2(relu(self.conv1(means))))
