"""RabbitMQ through kombu's py-amqp transport."""
