/* The inner loops of the exact solver (solver.py), in 64-bit integers. Same algorithm and same answers as reference.py.

   A graph has nodes 0 (source) to nodes-1 (sink) and arcs from lower to higher nodes, ordered by start. We want the
   path of the largest value whose m costs keep their limits. Multipliers are integers in units of 2^-shift value
   steps per cost step, so bounds are exact: a partial path is dropped only if no completion can reach best + 1.
   The shift is chosen so that no sum along a path leaves 62 bits (see `scale`). */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t i64;
#define NONE INT64_MIN
#define MOST 8            /* costs with a budget */
#define POOL (2 + 2 * MOST)
#define FIRST 80          /* passes of the dual before arcs are fixed */
#define WINDOW 50         /* others that a partial path is compared with: more costs more time than it saves */
#define HARD 50000        /* partial paths after which a wider beam is worth its time */
#define EXPORT __attribute__((visibility("default")))

enum { PROVED = 0, INFEASIBLE = 1, LIMIT = 2, MEMORY = 3 };

typedef struct {
    int nodes, arcs, m;
    int *tail, *head, *id, *first;
    i64 *val, *cost; /* cost: arcs x m */
} graph;

typedef struct {
    int m, shift;
    i64 limit[MOST], top[MOST]; /* top: largest multiplier that cannot overflow */
} problem;

typedef struct {
    int size;
    i64 lam[POOL][MOST];
    i64 *togo; /* size x nodes: largest reduced value from a node to the sink */
} pool;

static void index_arcs(graph *g) {
    int a = 0;
    for (int u = 0; u <= g->nodes; u++) {
        while (a < g->arcs && g->tail[a] < u) a++;
        g->first[u] = a;
    }
}

static i64 reduced(const graph *g, int shift, const i64 *lam, int a) {
    i64 w = g->val[a] * ((i64)1 << shift);
    for (int r = 0; r < g->m; r++) w -= lam[r] * g->cost[(i64)a * g->m + r];
    return w;
}

/* Largest sum of w to the sink, with the arc that attains it. w = reduced value. */
static void backward(const graph *g, int shift, const i64 *lam, i64 *h, int *arc) {
    for (int u = 0; u < g->nodes - 1; u++) h[u] = NONE;
    h[g->nodes - 1] = 0;
    for (int u = g->nodes - 2; u >= 0; u--)
        for (int a = g->first[u]; a < g->first[u + 1]; a++) {
            i64 ahead = h[g->head[a]];
            if (ahead == NONE) continue;
            ahead += reduced(g, shift, lam, a);
            if (ahead > h[u]) {
                h[u] = ahead;
                if (arc) arc[u] = a;
            }
        }
}

static void forward(const graph *g, int shift, const i64 *lam, i64 *f) {
    f[0] = 0;
    for (int u = 1; u < g->nodes; u++) f[u] = NONE;
    for (int a = 0; a < g->arcs; a++) {
        i64 before = f[g->tail[a]];
        if (before == NONE) continue;
        before += reduced(g, shift, lam, a);
        if (before > f[g->head[a]]) f[g->head[a]] = before;
    }
}

/* Least cost r to the sink (back) or from the source; NONE where there is no path. */
static void least(const graph *g, int r, i64 *d, int back) {
    for (int u = 0; u < g->nodes; u++) d[u] = NONE;
    d[back ? g->nodes - 1 : 0] = 0;
    for (int i = 0; i < g->arcs; i++) {
        int a = back ? g->arcs - 1 - i : i;
        int from = back ? g->head[a] : g->tail[a], to = back ? g->tail[a] : g->head[a];
        if (d[from] == NONE) continue;
        i64 x = d[from] + g->cost[(i64)a * g->m + r];
        if (d[to] == NONE || x < d[to]) d[to] = x;
    }
}

/* Extreme of a column (value for r < 0) over all paths; sign -1 gives the minimum, absolute the sum of magnitudes. */
static i64 extreme(const graph *g, int r, int sign, int absolute, i64 *h) {
    for (int u = 0; u < g->nodes - 1; u++) h[u] = NONE;
    h[g->nodes - 1] = 0;
    for (int a = g->arcs - 1; a >= 0; a--) {
        i64 ahead = h[g->head[a]], x = r < 0 ? g->val[a] : g->cost[(i64)a * g->m + r];
        if (ahead == NONE) continue;
        x = absolute ? (x < 0 ? -x : x) : sign * x;
        if (ahead + x > h[g->tail[a]]) h[g->tail[a]] = ahead + x;
    }
    return h[0] == NONE ? NONE : sign * h[0];
}

static int bits(i64 x) {
    int n = 0;
    while (x > 0) n++, x >>= 1;
    return n;
}

static void compact(graph *g, const uint8_t *alive) {
    int n = 0;
    for (int a = 0; a < g->arcs; a++)
        if (alive[a]) {
            g->tail[n] = g->tail[a], g->head[n] = g->head[a], g->id[n] = g->id[a], g->val[n] = g->val[a];
            memmove(g->cost + (i64)n * g->m, g->cost + (i64)a * g->m, sizeof(i64) * g->m);
            n++;
        }
    g->arcs = n;
    index_arcs(g);
}

static i64 *space(i64 n) { return malloc(sizeof(i64) * (n > 0 ? n : 1)); }

static void release(graph *g) {
    free(g->tail), free(g->head), free(g->id), free(g->first), free(g->val), free(g->cost);
}

static int copy(const graph *from, graph *g) {
    size_t n = from->arcs > 0 ? from->arcs : 1;
    *g = *from;
    g->tail = malloc(sizeof(int) * n), g->head = malloc(sizeof(int) * n), g->id = malloc(sizeof(int) * n);
    g->first = malloc(sizeof(int) * (from->nodes + 1));
    g->val = space(n), g->cost = space(n * (from->m + 1));
    if (!g->tail || !g->head || !g->id || !g->first || !g->val || !g->cost) return release(g), 0;
    if (from->tail) {
        memcpy(g->tail, from->tail, sizeof(int) * from->arcs), memcpy(g->head, from->head, sizeof(int) * from->arcs);
        memcpy(g->id, from->id, sizeof(int) * from->arcs), memcpy(g->val, from->val, sizeof(i64) * from->arcs);
        memcpy(g->cost, from->cost, sizeof(i64) * from->arcs * from->m);
        memcpy(g->first, from->first, sizeof(int) * (from->nodes + 1));
    }
    return 1;
}

/* Drop arcs that lie on no path within some limit, or on none of value > floor by any multipliers of the pool. */
static int prune(graph *g, const problem *p, const pool *pl, i64 floor_value) {
    i64 *f = space(g->nodes), *h = space(g->nodes);
    uint8_t *alive = malloc(g->arcs > 0 ? g->arcs : 1);
    if (!f || !h || !alive) return free(f), free(h), free(alive), 0;
    for (int z = 0; pl && z < pl->size; z++) {
        forward(g, p->shift, pl->lam[z], f), backward(g, p->shift, pl->lam[z], h, NULL);
        i64 need = (floor_value + 1) * ((i64)1 << p->shift);
        for (int r = 0; r < p->m; r++) need -= pl->lam[z][r] * p->limit[r];
        for (int a = 0; a < g->arcs; a++) {
            i64 x = f[g->tail[a]], y = h[g->head[a]];
            alive[a] = x != NONE && y != NONE && x + reduced(g, p->shift, pl->lam[z], a) + y >= need;
        }
        compact(g, alive);
    }
    for (int r = 0; r < p->m; r++) {
        least(g, r, f, 0), least(g, r, h, 1);
        for (int a = 0; a < g->arcs; a++) {
            i64 x = f[g->tail[a]], y = h[g->head[a]];
            alive[a] = x != NONE && y != NONE && x + g->cost[(i64)a * g->m + r] + y <= p->limit[r];
        }
        compact(g, alive);
    }
    free(f), free(h), free(alive);
    return 1;
}

typedef struct {
    i64 value;
    int length;
    int *arcs; /* ids */
} incumbent;

/* Walk the best path of a backward pass: its value and costs; keep it if it is feasible and better. */
static int walk(const graph *g, const problem *p, const int *arc, i64 *value, i64 *cost, incumbent *best) {
    int u = 0, n = 0, ok = 1;
    *value = 0;
    for (int r = 0; r < g->m; r++) cost[r] = 0;
    while (u != g->nodes - 1) {
        int a = arc[u];
        *value += g->val[a];
        for (int r = 0; r < g->m; r++) cost[r] += g->cost[(i64)a * g->m + r];
        u = g->head[a];
    }
    for (int r = 0; r < g->m; r++) ok &= cost[r] <= p->limit[r];
    if (ok && (best->length == 0 || *value > best->value)) {
        best->value = *value;
        for (u = 0; u != g->nodes - 1; u = g->head[arc[u]]) best->arcs[n++] = g->id[arc[u]];
        best->length = n;
    }
    return ok;
}

static i64 bound_of(const problem *p, const i64 *lam, i64 at_source) {
    for (int r = 0; r < p->m; r++) at_source += lam[r] * p->limit[r];
    return at_source;
}

/* Minimise the Lagrangian bound. lam: start and result. Returns the bound, scaled; NONE if no path is left. */
static i64 dual(const graph *g, const problem *p, i64 *lam, incumbent *best, int passes, i64 spread, i64 *h, int *arc) {
    int m = p->m;
    i64 value, cost[MOST], upper = 0, unit = (i64)1 << p->shift;
    if (m <= 1) {
        if (m) lam[0] = 0;
        backward(g, p->shift, lam, h, arc);
        if (h[0] == NONE) return NONE;
        upper = bound_of(p, lam, h[0]);
        if (walk(g, p, arc, &value, cost, best)) return m ? value * unit : upper;
        /* secant between a line that breaks the limit and one that keeps it */
        i64 v0 = value, c0 = cost[0], v1, c1, l = p->top[0];
        lam[0] = 0;
        /* The cheapest path: the limit of large multipliers. */
        for (int u = 0; u < g->nodes - 1; u++) h[u] = NONE;
        h[g->nodes - 1] = 0;
        for (int a = g->arcs - 1; a >= 0; a--) {
            i64 ahead = h[g->head[a]];
            if (ahead == NONE) continue;
            ahead -= g->cost[a];
            if (ahead > h[g->tail[a]]) h[g->tail[a]] = ahead, arc[g->tail[a]] = a;
        }
        if (!walk(g, p, arc, &v1, cost, best)) return NONE;
        c1 = cost[0];
        for (int i = 0; i < passes && c0 > c1; i++) {
            double ratio = (double)(v0 - v1) / (double)(c0 - c1) * (double)unit;
            i64 next = ratio <= 0 ? 0 : ratio >= (double)p->top[0] ? p->top[0] : (i64)(ratio + 0.5);
            if (next == l) break;
            l = next;
            backward(g, p->shift, &l, h, arc);
            i64 u = bound_of(p, &l, h[0]);
            if (u < upper) upper = u, lam[0] = l;
            if (walk(g, p, arc, &value, cost, best)) {
                if (value == v1 && cost[0] == c1) break;
                v1 = value, c1 = cost[0];
            } else {
                if (value == v0 && cost[0] == c0) break;
                v0 = value, c0 = cost[0];
            }
        }
        return upper;
    }
    double at[MOST], kept[MOST], theta = 1.0, tiny = 1e-5 * (double)spread * (double)unit;
    int stall = 0, first = 1;
    for (int r = 0; r < m; r++) at[r] = kept[r] = (double)lam[r];
    for (int i = 0; i < passes; i++) {
        i64 l[MOST];
        for (int r = 0; r < m; r++)
            l[r] = at[r] <= 0 ? 0 : at[r] >= (double)p->top[r] ? p->top[r] : (i64)(at[r] + 0.5);
        backward(g, p->shift, l, h, arc);
        if (h[0] == NONE) return NONE;
        i64 u = bound_of(p, l, h[0]);
        walk(g, p, arc, &value, cost, best);
        if (first || u < upper) {
            stall = first || (double)u < (double)upper - tiny ? 0 : stall + 1;
            upper = u, first = 0;
            for (int r = 0; r < m; r++) lam[r] = l[r], kept[r] = (double)l[r];
        } else
            stall++;
        if (best->length && upper < (best->value + 1) * unit) break;
        if (stall >= 8) {
            theta *= 0.5, stall = 0;
            for (int r = 0; r < m; r++) at[r] = kept[r];
            if (theta < 1e-4) break;
            continue;
        }
        double norm = 0, share[MOST];
        for (int r = 0; r < m; r++) {
            double t = p->limit[r] > 0 ? (double)p->limit[r] : 1.0;
            share[r] = ((double)p->limit[r] - (double)cost[r]) / t;
            if (!(l[r] == 0 && share[r] > 0)) norm += share[r] * share[r];
        }
        if (norm < 1e-18) break;
        double goal = best->length ? (double)best->value * (double)unit : (double)upper - 0.1 * (double)spread * (double)unit;
        double step = theta * 0.5 * ((double)u - goal) / norm;
        if (step < 0) step = 0;
        for (int r = 0; r < m; r++) {
            double t = p->limit[r] > 0 ? (double)p->limit[r] : 1.0;
            at[r] -= step * share[r] / t;
            if (at[r] < 0) at[r] = 0;
        }
    }
    return upper;
}

typedef struct {
    i64 key, second;
    int label;
} item;

static int by_key(const void *a, const void *b) {
    const item *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    if (x->second != y->second) return x->second < y->second ? -1 : 1;
    return (x->label > y->label) - (x->label < y->label);
}

typedef struct {
    i64 value, bound;
    int parent, arc, next;
} label;

/* Label setting: all partial paths that may end above `best->value` (or `above`). beam > 0 keeps only so many per node
   (a heuristic). Returns PROVED when nothing was cut short, LIMIT, or MEMORY. */
static int search(const graph *g, const problem *p, pool *pl, i64 above, i64 most, int beam, int window,
                  incumbent *best, i64 *count) {
    int m = p->m, sink = g->nodes - 1, status = PROVED, found = -1;
    i64 cap = 4096, n = 1, unit = (i64)1 << p->shift, goal = (above + 1) * unit, room = 1024;
    label *labels = malloc(sizeof(label) * cap);
    i64 *spent = space(cap * (m + 1)), *left = space((i64)g->nodes * (m + 1)), *through = space((i64)g->arcs * pl->size);
    int *head = malloc(sizeof(int) * g->nodes), *keep = malloc(sizeof(int) * room);
    item *items = malloc(sizeof(item) * room);
    i64 final = above;
    if (!labels || !spent || !left || !through || !head || !keep || !items) {
        status = MEMORY;
        goto done;
    }
    for (int r = 0; r < m; r++) least(g, r, left + (i64)r * g->nodes, 1);
    for (int z = 0; z < pl->size; z++) {
        i64 *h = pl->togo + (i64)z * g->nodes;
        backward(g, p->shift, pl->lam[z], h, NULL);
        for (int a = 0; a < g->arcs; a++) {
            i64 ahead = h[g->head[a]];
            through[(i64)a * pl->size + z] = ahead == NONE ? NONE : ahead + reduced(g, p->shift, pl->lam[z], a);
        }
    }
    for (int u = 0; u < g->nodes; u++) head[u] = -1;
    labels[0] = (label){0, INT64_MAX, -1, -1, -1};
    for (int r = 0; r < m; r++) spent[r] = 0;
    head[0] = 0;
    for (int u = 0; u < sink; u++) {
        i64 k = 0, kept = 0;
        for (int i = head[u]; i >= 0; i = labels[i].next) {
            if (labels[i].bound < goal) continue;
            if (k == room) {
                room *= 2;
                item *more = realloc(items, sizeof(item) * room);
                if (more) items = more;
                int *longer = realloc(keep, sizeof(int) * room);
                if (longer) keep = longer;
                if (!more || !longer) {
                    status = MEMORY;
                    goto done;
                }
            }
            items[k].label = i;
            items[k].key = beam ? -labels[i].bound : m == 1 ? spent[i] : -labels[i].value;
            items[k].second = m == 1 ? -labels[i].value : m ? spent[(i64)i * m] : 0;
            k++;
        }
        if (!k) continue;
        qsort(items, k, sizeof(item), by_key);
        if (beam) {
            for (; kept < k && kept < beam; kept++) keep[kept] = items[kept].label;
        } else if (m <= 1) {
            i64 top = NONE;
            for (i64 q = 0; q < k; q++)
                if (labels[items[q].label].value > top) {
                    top = labels[items[q].label].value;
                    keep[kept++] = items[q].label;
                    if (!m) break;
                }
        } else {
            for (i64 q = 0; q < k; q++) {
                const i64 *mine = spent + (i64)items[q].label * m;
                int beaten = 0;
                i64 last = kept > window ? kept - window : 0;
                for (i64 z = kept - 1; z >= last && !beaten; z--) {
                    const i64 *other = spent + (i64)keep[z] * m;
                    beaten = 1;
                    for (int r = 0; r < m; r++) beaten &= other[r] <= mine[r];
                }
                if (!beaten) keep[kept++] = items[q].label;
            }
        }
        for (i64 q = 0; q < kept; q++) {
            int i = keep[q];
            i64 base[POOL];
            for (int z = 0; z < pl->size; z++) {
                base[z] = labels[i].value * unit;
                for (int r = 0; r < m; r++) base[z] += pl->lam[z][r] * (p->limit[r] - spent[(i64)i * m + r]);
            }
            for (int a = g->first[u]; a < g->first[u + 1]; a++) {
                i64 bound = INT64_MAX;
                int v = g->head[a], ok = 1;
                for (int z = 0; z < pl->size; z++) {
                    i64 t = through[(i64)a * pl->size + z];
                    if (t == NONE) {
                        ok = 0;
                        break;
                    }
                    if (base[z] + t < bound) bound = base[z] + t;
                }
                if (!ok || bound < goal) continue;
                for (int r = 0; r < m && ok; r++)
                    ok = spent[(i64)i * m + r] + g->cost[(i64)a * m + r] + left[(i64)r * g->nodes + v] <= p->limit[r];
                if (!ok) continue;
                if (n >= most) {
                    status = LIMIT;
                    goto done;
                }
                if (n == cap) {
                    cap *= 2;
                    label *more = realloc(labels, sizeof(label) * cap);
                    if (more) labels = more;
                    i64 *wider = realloc(spent, sizeof(i64) * cap * (m + 1));
                    if (wider) spent = wider;
                    if (!more || !wider) {
                        status = MEMORY;
                        goto done;
                    }
                }
                labels[n] = (label){labels[i].value + g->val[a], bound, i, a, head[v]};
                for (int r = 0; r < m; r++) spent[n * m + r] = spent[(i64)i * m + r] + g->cost[(i64)a * m + r];
                head[v] = (int)n;
                if (v == sink && labels[n].value > final) {
                    final = labels[n].value, found = (int)n;
                    goal = (final + 1) * unit;
                }
                n++;
            }
        }
    }
done:
    *count += n;
    if (found >= 0) {
        int length = 0;
        best->value = final;
        for (int i = found; labels[i].parent >= 0; i = labels[i].parent) best->arcs[length++] = g->id[labels[i].arc];
        for (int i = 0; i < length / 2; i++) {
            int t = best->arcs[i];
            best->arcs[i] = best->arcs[length - 1 - i], best->arcs[length - 1 - i] = t;
        }
        best->length = length;
    }
    free(labels), free(spent), free(left), free(through), free(head), free(keep), free(items);
    return status;
}

/* alive: arcs, in: which exist; out: which are left after fixing at the final threshold.
   path: room for nodes; multipliers: room for POOL x m.
   info: length of path, value, bound (steps, rounded down), labels, arcs left, size of pool, shift. */
EXPORT int bf_solve(int nodes, int arcs, int m, const i64 *start, const i64 *end, const i64 *value, const i64 *cost,
                    const i64 *limit, int passes, i64 most, int beam, uint8_t *alive, i64 *path, i64 *multipliers,
                    i64 *info) {
    graph all = {0}, g = {0}, part = {0};
    problem p = {0};
    pool pl = {0};
    incumbent best = {0};
    i64 *h = space(nodes), upper = 0, labels = 0;
    int *arc = malloc(sizeof(int) * nodes), status = MEMORY;
    best.arcs = malloc(sizeof(int) * nodes);
    memset(info, 0, sizeof(i64) * 8);
    if (m > MOST || !h || !arc || !best.arcs) goto done;
    all.nodes = nodes, all.arcs = arcs, all.m = m;
    if (!copy(&all, &g)) goto done;
    int n = 0;
    for (int a = 0; a < arcs; a++)
        if (alive[a]) {
            g.tail[n] = (int)start[a], g.head[n] = (int)end[a], g.id[n] = a, g.val[n] = value[a];
            memcpy(g.cost + (i64)n * m, cost + (i64)a * m, sizeof(i64) * m);
            n++;
        }
    g.arcs = n;
    index_arcs(&g);
    p.m = m;
    memcpy(p.limit, limit, sizeof(i64) * m);
    status = INFEASIBLE;
    memset(alive, 0, arcs);
    i64 size = extreme(&g, -1, 1, 1, h);
    if (size == NONE) goto done;
    p.shift = 50 - bits(size) < 0 ? 0 : 50 - bits(size) > 30 ? 30 : 50 - bits(size);
    for (int r = 0; r < m; r++) {
        i64 most_cost = extreme(&g, r, 1, 0, h), sum = extreme(&g, r, 1, 1, h);
        p.top[r] = most_cost <= p.limit[r] ? 0 : ((i64)1 << 58) / (sum + 1) / m;
        if (most_cost < p.limit[r]) p.limit[r] = most_cost;
        if (-sum > p.limit[r]) goto done;
    }
    if (!prune(&g, &p, NULL, 0)) {
        status = MEMORY;
        goto done;
    }
    i64 high = extreme(&g, -1, 1, 0, h);
    if (high == NONE) goto done;
    i64 low = extreme(&g, -1, -1, 0, h), spread = high - low + 1;
    pl.size = 1;
    upper = dual(&g, &p, pl.lam[0], &best, m > 1 && passes > FIRST ? FIRST : passes, spread, h, arc);
    if (upper == NONE) goto done;
    i64 ceiling = upper >> p.shift;
    status = PROVED;
    if (ceiling < low) {
        status = INFEASIBLE;
        goto done;
    }
    if (best.length && best.value >= ceiling) goto done;
    if (m > 1) {
        /* What is better than the incumbent uses few of the arcs: go on with those. `upper` stays the bound that the
           first multipliers prove on all arcs (the certificate's); what follows only lowers the ceiling of the search. */
        if (best.length) {
            if (!prune(&g, &p, &pl, best.value)) {
                status = MEMORY;
                goto done;
            }
            backward(&g, p.shift, pl.lam[0], h, NULL);
            if (h[0] == NONE) goto done;
        }
        memcpy(pl.lam[1], pl.lam[0], sizeof(i64) * m);
        i64 u = dual(&g, &p, pl.lam[1], &best, passes, spread, h, arc);
        pl.size = 2;
        if (u >> p.shift < ceiling) ceiling = u >> p.shift;
        if (best.length && best.value >= ceiling) goto done;
        /* Optima of nearby limits bound the paths that spend one cost faster than another. */
        incumbent spare = {0, 0, malloc(sizeof(int) * nodes)};
        if (!spare.arcs) {
            status = MEMORY;
            goto done;
        }
        for (int r = 0; r < m; r++)
            for (int sign = -1; sign <= 1; sign += 2) {
                problem near = p;
                near.limit[r] += sign * (p.limit[r] / 25);
                memcpy(pl.lam[pl.size], pl.lam[1], sizeof(i64) * m);
                spare.length = 0;
                if (dual(&g, &near, pl.lam[pl.size], &spare, 60, spread, h, arc) != NONE) pl.size++;
            }
        free(spare.arcs);
    }
    pl.togo = space((i64)nodes * pl.size);
    if (!pl.togo) {
        status = MEMORY;
        goto done;
    }
    for (int z = 1; z < pl.size; z++) {
        backward(&g, p.shift, pl.lam[z], h, NULL);
        i64 u = bound_of(&p, pl.lam[z], h[0]) >> p.shift;
        if (u < ceiling) ceiling = u;
    }
    if (best.length && best.value >= ceiling) goto done;
    if (beam) {
        status = search(&g, &p, &pl, best.length ? best.value : low - 1, most, beam, 0, &best, &labels);
        if (status == MEMORY) goto done;
        status = PROVED;
        if (best.length && best.value >= ceiling) goto done;
    }
    i64 floor_value = best.length ? best.value : low - 1;
    i64 delta = best.length ? (ceiling - best.value) / 4 + 1 : spread / 32 + 1;
    i64 patience = m > 1 && beam && most > HARD ? HARD : most;
    for (;;) {
        i64 threshold = ceiling - delta < floor_value ? floor_value : ceiling - delta;
        if (!copy(&g, &part) || !prune(&part, &p, &pl, threshold)) {
            status = MEMORY;
            goto done;
        }
        i64 before = best.length ? best.value : NONE;
        status = search(&part, &p, &pl, threshold, patience, 0, WINDOW, &best, &labels);
        int better = best.length && (before == NONE || best.value > before);
        info[4] = part.arcs;
        if (status == LIMIT && patience < most) {
            /* A hard one: a much wider beam first, its better incumbent saves more than it costs. */
            patience = most;
            release(&part), memset(&part, 0, sizeof part);
            if (search(&g, &p, &pl, best.length ? best.value : low - 1, most, beam * 10, 0, &best, &labels) == MEMORY) {
                status = MEMORY;
                goto done;
            }
            status = PROVED;
            if (best.length && best.value >= ceiling) break;
            floor_value = best.length ? best.value : low - 1;
            continue;
        }
        if (status != PROVED) {
            /* What a solver that takes over needs: the arcs of all paths that beat the incumbent. */
            release(&part), memset(&part, 0, sizeof part);
            if (copy(&g, &part) && prune(&part, &p, &pl, best.length ? best.value : low - 1)) {
                info[4] = part.arcs;
                for (int a = 0; a < part.arcs; a++) alive[part.id[a]] = 1;
            }
            break;
        }
        release(&part), memset(&part, 0, sizeof part);
        if (better || threshold <= floor_value) {
            if (!best.length) status = INFEASIBLE;
            break;
        }
        delta *= 2;
    }
done:
    if (best.length) {
        info[0] = best.length, info[1] = best.value;
        for (int i = 0; i < best.length; i++) path[i] = best.arcs[i];
    }
    info[2] = upper == NONE ? NONE : upper >> p.shift;
    info[3] = labels, info[5] = pl.size, info[6] = p.shift;
    for (int z = 0; z < pl.size; z++) memcpy(multipliers + (i64)z * m, pl.lam[z], sizeof(i64) * m);
    if (g.tail) release(&g);
    if (part.tail) release(&part);
    free(h), free(arc), free(best.arcs), free(pl.togo);
    return status;
}
