"""What makes latents and rewards: the engine, its store, and the dispatcher of items to replicas."""
