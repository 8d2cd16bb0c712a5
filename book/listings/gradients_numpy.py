import numpy as np

def sigmoid(x):
    return 1 / (1 + np.exp(-x))

def sigmoid_derivative(x):
    return x * (1 - x)

x = np.array([1.0, 2.0, 3.0])
y = sigmoid(x)
z = sigmoid_derivative(x)

print("sigmoid(x):", y)
print("sigmoid'(x):", z)
