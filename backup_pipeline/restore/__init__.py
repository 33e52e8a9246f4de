"""What turns a sealed set back into living data: rebuild and swap, upsert, orders, file trees, drill."""
