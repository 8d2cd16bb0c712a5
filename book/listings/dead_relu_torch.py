import torch.nn as nn

# ReLU函数
relu = nn.ReLU()

# Leaky ReLU函数
leaky_relu = nn.LeakyReLU(negative_slope=0.01)
