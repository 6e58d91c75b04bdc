"""The contract as samples: messages with the replies and notices that the worker gives them."""
