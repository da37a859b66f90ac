"""What a policy sees: the context's verbs, the budget, the obstacles."""
