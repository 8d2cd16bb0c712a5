import tensorflow as tf
import numpy as np

# 定义神经网络结构
def neural_network(X, W1, b1, W2, b2):
    # 第一层神经网络
    layer1 = tf.add(tf.matmul(X, W1), b1)
    layer1 = tf.nn.relu(layer1)
    # 第二层神经网络
    layer2 = tf.add(tf.matmul(layer1, W2), b2)
    return layer2

# 定义损失函数
def loss_function(Y, Y_pred):
    return tf.reduce_mean(tf.square(Y - Y_pred))

# 定义梯度下降法
def gradient_descent(X, Y, W1, b1, W2, b2, learning_rate, iterations):
    # 初始化变量
    train_X = tf.placeholder(tf.float32, [None, input_dim])
    train_Y = tf.placeholder(tf.float32, [None, output_dim])
    W1 = tf.Variable(tf.random_normal([input_dim, hidden_dim]))
    b1 = tf.Variable(tf.random_normal([hidden_dim]))
    W2 = tf.Variable(tf.random_normal([hidden_dim, output_dim]))
    b2 = tf.Variable(tf.random_normal([output_dim]))
    # 定义神经网络结构
    Y_pred = neural_network(train_X, W1, b1, W2, b2)
    # 定义损失函数
    loss = loss_function(train_Y, Y_pred)
    # 定义梯度下降法
    optimizer = tf.train.GradientDescentOptimizer(learning_rate).minimize(loss)
    # 训练模型
    with tf.Session() as sess:
        sess.run(tf.global_variables_initializer())
        for i in range(iterations):
            sess.run(optimizer, feed_dict={train_X: X, train_Y: Y})
        # 输出训练结果
        print("训练完成")

# 生成数据集
input_dim = 2
hidden_dim = 4
output_dim = 1
X = np.random.rand(100, input_dim)
Y = np.random.rand(100, output_dim)

# 训练模型
learning_rate = 0.01
iterations = 1000
gradient_descent(X, Y, W1, b1, W2, b2, learning_rate, iterations)
