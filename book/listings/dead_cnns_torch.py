import torch
import torch.nn as nn
import torch.nn.functional as F

# Leaky ReLU
class LeakyReLU(nn.Module):
    def __init__(self, slope=0.01):
        super(LeakyReLU, self).__init__()
        self.slope = slope

    def forward(self, x):
        return x * self.slope + (1 - self.slope) * F.relu(x)

# Parametric ReLU
class ParametricReLU(nn.Module):
    def __init__(self, slope=0.01):
        super(ParametricReLU, self).__init__()
        self.slope = slope

    def forward(self, x):
        return x * self.slope + (1 - self.slope) * F.relu(x)

# 创建一个包含Leaky ReLU和Parametric ReLU的简单卷积神经网络
class SimpleCNN(nn.Module):
    def __init__(self):
        super(SimpleCNN, self).__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=1)
        self.leaky_relu = LeakyReLU()
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.prelu = ParametricReLU()

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = self.leaky_relu(x)
        x = F.relu(self.conv2(x))
        x = self.prelu(x)
        return x

# 创建一个输入数据集
x = torch.randn(1, 1, 32, 32)

# 实例化简单卷积神经网络
model = SimpleCNN()

# 进行前向传播
output = model(x)
print(output)
