"""Each algorithm once more, as a plain numpy loop written from its formulas: what `policies/` must decide.

Every function takes the numpy world `world` (tests/exact.py), a generator and the policy's arguments, and returns the
latent of the answer. `score(p)` is the reward of the x0 estimate at a point, `end(p)` that of its finished sample, and
`glance(p)` the early reward of the noisy latent.
"""

from dataclasses import replace
from itertools import pairwise

import numpy as np
from exact import Numpy, closeness, preference

from raysearch.recipe.digests import digest


def score(world: Numpy, p) -> float:
    return closeness(world.x0(p))


def end(world: Numpy, p) -> float:
    return closeness(world.to(p, world.T).x)


def glance(world: Numpy, p) -> float:
    return closeness(p.x)


def single(world, rng):
    return world.to(world.noise(), world.T).x


def best_of_n(world, rng, *, n):
    return max((world.to(world.noise(), world.T).x for _ in range(n)), key=closeness)


def zero_order(world, rng, *, n, iterations, cosine):
    pivot = world.noise()
    seen = [pivot]
    for i in range(iterations):
        around = [world.neighbour(pivot, cosine) for _ in range(n)]
        seen += around
        better = [y for y in around if end(world, y) > end(world, pivot)]
        if better:
            pivot = max(better, key=lambda y: end(world, y))
        elif i + 1 < iterations:
            pivot = world.noise()
            seen.append(pivot)
    return world.to(max(seen, key=lambda y: end(world, y)), world.T).x


def paths(world, rng, *, n, m, start, forward, backward):
    kept, t = [world.to(world.noise(), start) for _ in range(n)], start
    while t < world.T:
        up = max(t - forward, 0)
        t = min(up + backward, world.T)
        tried = [world.to(world.renoise(p, up), t) for p in kept for _ in range(m)]
        kept = sorted(tried, key=lambda p: -score(world, p))[:n]
    return kept[0].x


def duel(world: Numpy, p, q) -> float:
    return preference(end(world, p), end(world, q))


def tournament(world, rng, *, n, batch, keep, games, rivals, k):
    points, elo, finalists = [], [], []

    def game(i, j):
        p = duel(world, points[i], points[j])
        weight = 0.7 + 0.3 * (abs(p - 0.5) >= 1 / 6) + 0.2 * (abs(p - 0.5) >= 1 / 3)
        wins, chance = p > 0.5, 10 ** (elo[i] / 400) / (10 ** (elo[i] / 400) + 10 ** (elo[j] / 400))
        elo[i] += k * weight * (wins - chance)
        elo[j] -= k * weight * (wins - chance)

    def half(of, by):
        return sorted(sorted(of, key=by, reverse=True)[: max(int(len(of) * keep), 2)])

    for begin in range(0, n, batch):
        young = list(range(begin, min(begin + batch, n)))
        points += [world.to(world.noise(), world.T) for _ in young]
        elo += [1500] * len(young)
        young = half(young, [end(world, p) for p in points].__getitem__)
        pairs = [(i, j) for i in young for j in young if i < j]
        first = sorted(rng.choice(len(pairs), size=min(int(len(young) * games), len(pairs)), replace=False).tolist())
        for m in first:
            game(*pairs[m])
        young = half(young, elo.__getitem__)
        for m, (i, j) in enumerate(pairs):
            if m not in first and i in young and j in young:
                game(i, j)
        champion = max(young, key=elo.__getitem__)
        for old in sorted(finalists, key=elo.__getitem__, reverse=True)[:rivals]:
            game(champion, old)
        finalists += young
    return points[max(finalists, key=elo.__getitem__)].x


def spread_out(world, p, copies, back):
    if world.s.stochastic:
        return [p, *(world.branch(p) for _ in range(copies - 1))]
    return [p, *(world.renoise(p, max(p.t - back, 0)) for _ in range(copies - 1))]


def beam(world, rng, *, k, n, every, back, one_step):
    alive = [world.noise() for _ in range(k * n)]
    for t in range(every, world.T, every):
        alive = [world.to(p, t) for p in alive]
        alive = sorted(alive, key=lambda p: -(score(world, p) if one_step else end(world, p)))[:k]
        alive = [q for p in alive for q in spread_out(world, p, n, back)]
    return max((world.to(p, world.T).x for p in alive), key=closeness)


def dlbs(world, rng, *, b, k, lookahead):
    def estimate(p):
        left = world.T - p.t
        steps = min(lookahead, left)
        stops = [p.t + round(i * left / steps) for i in range(steps + 1)]
        x = p.x
        for i, j in pairwise(stops):
            x = x + (world.sigmas[j] - world.sigmas[i]) * world.v(x, world.sigmas[i])
        return closeness(x)

    alive = [world.noise() for _ in range(b * k)]
    for t in range(1, world.T):
        alive = sorted((world.to(p, t) for p in alive), key=lambda p: -estimate(p))[:b]
        if t < world.T - 1:
            alive = [q for p in alive for q in (p, *(world.branch(p) for _ in range(k - 1)))]
    return max((world.to(p, world.T).x for p in alive), key=closeness)


def svdd(world, rng, *, m, alpha):
    p = world.noise()
    for t in range(1, world.T):
        tried = [world.to(q, t) for q in (p, *(world.branch(p) for _ in range(m - 1)))]
        w = np.exp([score(world, q) / alpha for q in tried])
        p = tried[rng.choice(m, p=w / w.sum())]
    return world.to(p, world.T).x


def rgrp(world, rng, *, n, schedule, beta, temperature, early=False):
    look = glance if early else score
    first = world.noise()
    alive, c = [first, *(world.perturb(first, beta) for _ in range(n - 1))], [0.0] * n
    for t in schedule:
        alive = [world.to(p, t + 1) for p in alive]
        w = np.exp([look(world, p) / temperature for p in alive])
        w /= w.sum()
        drawn = sorted(set(rng.choice(len(alive), size=len(alive), p=w).tolist()))
        alive, c = [alive[i] for i in drawn], [c[i] + w[i] for i in drawn]
    if early:
        return max((world.to(p, world.T).x for p in alive), key=closeness)
    return world.to(alive[int(np.argmax(c))], world.T).x


def halving(world, rng, *, n, schedule, early):
    look = glance if early else score
    alive = [world.noise() for _ in range(n)]
    for t in schedule:
        ranked = sorted((world.to(p, t) for p in alive), key=lambda p: look(world, p))
        alive = ranked[len(ranked) // 2 :]
    return max((world.to(p, world.T).x for p in alive), key=closeness)


def sequential(world, rng, *, n, batch, looks, bars, enough, early):
    finished, given_up = [], []
    for i in range(n):
        p, where = world.noise(), (-1, 0.0)
        for t, bar in zip(looks, bars or [-np.inf] * len(looks), strict=True):
            p = world.to(p, t)
            where = where[0] + 1, (glance if early else score)(world, p)
            if where[1] < bar:
                given_up.append((where, p))
                break
        else:
            finished.append(world.to(p, world.T).x)
        whole = (i + 1) % batch == 0  # the noises of a batch go on together
        if whole and enough is not None and any(closeness(x) >= enough for x in finished):
            break
    if finished:
        return max(finished, key=closeness)
    return world.to(max(given_up, key=lambda g: g[0])[1], world.T).x


def feynman_kac(world, rng, *, k, steps, weight, threshold):
    """Multinomial resampling; `weight(t, rewards of the path)` is the log-potential."""
    alive = [(world.noise(), [], 0.0) for _ in range(k)]
    for t in steps:
        moved = []
        for p, seen, log_w in alive:
            p = world.to(p, t)
            seen = [*seen, score(world, p)]
            moved.append((p, seen, log_w + weight(t, seen)))
        w = np.exp([log_w for *_, log_w in moved])
        w /= w.sum()
        if t == world.T or 1 / (w**2).sum() >= threshold * len(moved):
            alive = moved
            continue
        drawn = rng.choice(len(moved), size=k, p=w).tolist()
        alive = []
        for i in sorted(set(drawn)):
            p, seen, _ = moved[i]
            if world.s.stochastic:
                alive += [(q, seen, 0.0) for q in (p, *(world.branch(p) for _ in range(drawn.count(i) - 1)))]
            else:
                alive.append((p, seen, np.log(drawn.count(i))))
    return max((p.x for p, *_ in alive), key=closeness)


def fk_steering(world, rng, *, k, lam, potential, interval, threshold):
    def weight(t, seen):
        if potential == "difference":
            return lam * (seen[-1] - (seen[-2] if len(seen) > 1 else 0))
        whole = [max(seen[: i + 1]) if potential == "max" else sum(seen[: i + 1]) for i in range(len(seen))]
        return lam * whole[-1] if t < world.T else lam * (seen[-1] - sum(whole[:-1]))

    gap = round(interval * world.T)
    steps = [t for t in range(1, world.T) if t % gap == 0] + [world.T]
    return feynman_kac(world, rng, k=k, steps=steps, weight=weight, threshold=threshold)


def smc(world, rng, *, n, strength, every, threshold):
    steps = [t for t in range(1, world.T) if t % every == 0] + [world.T]
    lam = {t: strength * (2 ** (t / world.T) - 1) for t in steps}

    def weight(t, seen):
        i = steps.index(t)
        return lam[t] * seen[-1] - (lam[steps[i - 1]] * seen[-2] if i else 0)

    return feynman_kac(world, rng, k=n, steps=steps, weight=weight, threshold=threshold)


def rbf(world, rng, *, quota):
    p = world.noise()
    best, saved = score(world, p), 0
    for t in range(1, world.T):
        allowed = quota + saved
        tried = []
        for i in range(allowed):
            q = world.to(p if i == 0 else world.branch(p), t)
            tried.append(q)
            if score(world, q) > best:
                break
        saved = allowed - len(tried)
        p = max(tried, key=lambda q: score(world, q))
        best = max(best, score(world, p))
    return world.to(p, world.T).x


def bfs(world, rng, *, n, schedule, temperature, mode, back):
    alive = [world.noise() for _ in range(n)]
    for t in schedule:
        alive = [world.to(p, t) for p in alive]
        w = np.exp([score(world, p) / temperature for p in alive])
        copies = np.rint(n * w / w.sum()).astype(int)
        alive = [
            q
            for p, c in zip(alive, copies, strict=True)
            if c
            for q in (spread_out(world, p, int(c), back) if mode == "resample" else [p])
        ]
    return max((world.to(p, world.T).x for p in alive), key=closeness)


def dfs(world, rng, *, schedule, threshold, back, backtracks):
    p, stored = world.noise(), {t: [] for t in schedule}
    pending = list(schedule)
    while pending:
        t = pending.pop(0)
        p = world.to(p, t)
        stored[t].append(p)
        if score(world, p) >= threshold:
            continue
        if backtracks == 0:
            p = max(stored[t], key=lambda q: score(world, q))
            continue
        backtracks -= 1
        p = world.renoise(p, t - back) if t > back else world.noise()
        pending = [s for s in schedule if s > p.t]
    return world.to(p, world.T).x


def evolution(world, rng, *, schedule, population, elite, beta, eta, share):
    everyone = [world.noise() for _ in range(population[0])]
    for t, size in zip(schedule, population[1:], strict=True):
        fitness = [end(world, p) for p in everyone]
        born = []
        for _ in range(size - elite):
            entrants = rng.choice(len(everyone), size=round(share * len(everyone)), replace=False)
            winner = world.to(everyone[max(entrants, key=lambda i: fitness[i])], t)
            s, s_next = world.sigmas[t], world.sigmas[t + 1]
            born.append(
                world.perturb(winner, beta)
                if t == 0
                else world.jitter(winner, float(eta * np.sqrt(s / (1 - s)) * np.sqrt(s - s_next)))
            )
        everyone += born
    return world.to(max(everyone, key=lambda p: end(world, p)), world.T).x


def tree(world, rng, *, iterations, lam, schedule, width, alpha):
    levels = [0, *schedule, world.T]
    root = {"p": None, "level": -1, "children": [], "visits": 0, "value": 0.0}
    leaves = []
    for _ in range(iterations):
        walk = [root]
        while walk[-1]["level"] < len(levels) - 1:
            node = walk[-1]
            limit = 1 if node["level"] == len(levels) - 2 else max(1, width * node["visits"] ** alpha)
            if len(node["children"]) < limit:
                if node["p"] is None:
                    p = world.noise()
                else:
                    p = world.to(world.branch(node["p"]) if node["children"] else node["p"], levels[node["level"] + 1])
                node["children"].append({"p": p, "level": node["level"] + 1, "children": [], "visits": 0, "value": 0.0})
                walk.append(node["children"][-1])
            else:
                w = np.exp([lam * c["value"] for c in node["children"]])
                walk.append(node["children"][rng.choice(len(w), p=w / w.sum())])
        walk[-1]["value"] = closeness(walk[-1]["p"].x)
        leaves.append(walk[-1]["p"].x)
        for node in reversed(walk):
            node["visits"] += 1
            if node["children"]:
                node["value"] = np.log(np.mean([np.exp(lam * c["value"]) for c in node["children"]])) / lam
    return max(leaves, key=closeness)


def repulsion(world, rng, *, n, eta, reach, h, start, every, back, tries, obstacles):
    places = [np.array([float(c) for c in b.obstacle.points[0].path.split(",")]) for b in obstacles]
    looks = [*range(start, world.T, every), world.T]

    def rms(x):
        return np.sqrt(np.mean(x**2))

    def room(p, setting):
        return min(rms(world.x0(p) - o) / q for o, (_, q) in zip(places, setting, strict=True))

    def pushed(p, setting):
        x0, x = world.x0(p), p.x
        for o, (e, q) in zip(places, setting, strict=True):
            d = rms(x0 - o)
            if d <= q:
                x = x + min(h * e * (1 / d - 1 / q) / d**2, q - d) * (x0 - o) / d
        etas, reaches = zip(*setting, strict=True)
        return replace(p, x=x, origin=digest("push", p.lineage, 0, "", etas, reaches, h))

    def walk(p, setting):
        undone, outside = 0, False
        while True:
            p = world.to(p, next(t for t in looks if t > p.t))
            if room(p, setting) <= 1 and p.t < world.T:
                p = pushed(p, setting)
            inside = room(p, setting) <= 1
            if inside and undone < tries and (outside or p.t == world.T):
                p, undone, outside = world.renoise(p, max(p.t - back * 2**undone, 0)), undone + 1, False
            elif p.t == world.T:
                return p
            else:
                outside = not inside

    def answer(setting):
        found = [walk(p, setting) for p in noises]
        clear = [p for p in found if room(p, setting) > 1]
        if clear:
            p = max(clear, key=lambda p: closeness(p.x))
            return 1, closeness(p.x), p.x, setting
        p = max(found, key=lambda p: room(p, setting))
        return 0, room(p, setting), p.x, setting

    noises = [world.noise() for _ in range(n)]
    grid = [(e, q) for e in eta for q in reach]
    best = answer([grid[0]] * len(places))
    for i in range(len(places)):
        others = list(best[3])
        for pair in grid[1:]:
            found = answer([pair if j == i else other for j, other in enumerate(others)])
            if found[:2] > best[:2]:
                best = found
    return best[2]
