"""Search policies: one published algorithm per file, each a coroutine `search(ctx, *, ...)` that returns a Candidate.

The letters stand for the same things in every file; n is the number of candidates:

    x, xs   one candidate, n candidates          t    a step of the grid, from 0 (noise) to ctx.num_steps (clean)
    r       their rewards, (n,)                  s    the noise level sigma of a step, from 1 to 0
    w       normalised weights, (n,)             a    the indices of ancestors among n candidates, (m,)
    log_w   logarithms of weights, (n,)          eps  standard normal noise of a latent's shape

Every `search` raises ConfigError for an argument that is not allowed. BudgetExhausted, which `ctx.score` raises, may
leave a search: the best candidate so far is then the answer.
"""
