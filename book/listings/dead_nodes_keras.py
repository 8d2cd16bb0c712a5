import numpy as np
import tensorflow as tf

# 定义神经网络结构
class Net(tf.keras.Model):
    def __init__(self):
        super(Net, self).__init__()
        self.dense1 = tf.keras.layers.Dense(64, kernel_initializer='glorot_uniform')
        self.relu = tf.keras.layers.ReLU()
        self.dense2 = tf.keras.layers.Dense(10)

    def call(self, x):
        x = self.dense1(x)
        x = self.relu(x)
        x = self.dense2(x)
        return x

# 生成数据
def generate_data():
    return np.random.rand(100, 100)

# 训练神经网络
def train(net, x, y, epochs=100, batch_size=32):
    net.compile(optimizer=tf.keras.optimizers.Adam(), loss=tf.keras.losses.MeanSquaredError())
    net.fit(x, y, epochs=epochs, batch_size=batch_size)

# 主程序
if __name__ == '__main__':
    x = np.random.rand(100, 100)
    y = np.random.rand(100, 10)
    net = Net()
    train(net, x, y)
