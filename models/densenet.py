"""DenseNet (https://arxiv.org/abs/1608.06993): every layer sees the outputs of all layers before it."""

from functools import partial

import paddle
from paddle import nn
from paddle.nn.functional import avg_pool2d, max_pool2d, relu

from .layers import BatchNormConv, ConvBatchNorm, mean_over_image


class DenseLayer(nn.Layer):
    def __init__(self, inputs, growth):
        super().__init__()
        self.bn_ac_func1 = BatchNormConv(inputs, 4 * growth)
        self.bn_ac_func2 = BatchNormConv(4 * growth, growth, 3)

    def forward(self, x):
        return paddle.concat([x, self.bn_ac_func2(self.bn_ac_func1(x))], axis=1)


class DenseBlock(nn.Sequential):
    def __init__(self, stage, inputs, layers, growth):
        names = (f"conv{stage}_{i + 1}" for i in range(layers))
        super().__init__(*((name, DenseLayer(inputs + i * growth, growth)) for i, name in enumerate(names)))


class Transition(nn.Layer):
    """Halves the channels and the image."""

    def __init__(self, inputs):
        super().__init__()
        self.conv_ac_func = BatchNormConv(inputs, inputs // 2)

    def forward(self, x):
        return avg_pool2d(self.conv_ac_func(x), 2)


class DenseNet(nn.Layer):
    def __init__(self, stem, growth, layers, classes=1000):
        super().__init__()
        self.conv1_func = ConvBatchNorm(3, stem, 7, stride=2, activation=relu)
        self.stages = []
        channels = stem
        for stage, count in enumerate(layers, start=2):
            if self.stages:
                self._append(f"tr_conv{stage - 1}_blk", Transition(channels))
                channels //= 2
            self._append(f"db_conv_{stage}", DenseBlock(stage, channels, count, growth))
            channels += count * growth
        self.batch_norm = nn.BatchNorm2D(channels)
        self.out = nn.Linear(channels, classes)

    def _append(self, name, stage):
        self.stages.append(self.add_sublayer(name, stage))

    def forward(self, x):
        x = max_pool2d(self.conv1_func(x), 3, stride=2, padding=1)
        for stage in self.stages:
            x = stage(x)
        return self.out(mean_over_image(relu(self.batch_norm(x))))


DenseNet121 = partial(DenseNet, 64, 32, (6, 12, 24, 16))
DenseNet161 = partial(DenseNet, 96, 48, (6, 12, 36, 24))
DenseNet169 = partial(DenseNet, 64, 32, (6, 12, 32, 32))
DenseNet201 = partial(DenseNet, 64, 32, (6, 12, 48, 32))
DenseNet264 = partial(DenseNet, 64, 32, (6, 12, 64, 48))
