"""What a broker and a result backend share when they live in one store, below both of them."""
