/* Elastic-net paths of Cox and logistic regression, with their cross-validation; `penalised.py` builds and calls them.
 *
 * Minimised is f(b) = -log-likelihood / n + penalty * sum_j factor_j (l1 |b_j| + (1 - l1) / 2 b_j^2), for one penalty
 * after another, each from the solution of the one before. At one penalty: Newton steps over the columns that take
 * part, whose quadratic problem cyclic coordinate descent solves on the matrix of second derivatives ("Gram matrix");
 * that matrix is kept, over steps and penalties, as long as steps with it converge fast, and a step is halved until f
 * falls. Columns that will hardly enter wait outside (strong rules), and at the end every column is held to the
 * conditions of Karush, Kuhn and Tucker at the exact derivatives, so that nothing in the result depends on how it was
 * found.
 *
 * Columns are contiguous, `ld` apart (the cases, rounded up; what is added is 0). The same floating point operations
 * in the same order everywhere: sums run in eight lanes, whichever instructions a processor has, and the exponential
 * is here, since that of C libraries differs in the last digit.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Where the compiler can, a second version of a loop for processors with vectors of four; the operations are the same. */
#if defined(__GNUC__) && defined(__x86_64__) && defined(__GLIBC__) && !defined(RADLOOM_PLAIN)
#define WIDE __attribute__((target_clones("avx2", "default")))
#else
#define WIDE
#endif

#define LANES 8
#define TOLERANCE 1e-9      /* of the conditions at the end, as a share of the largest score at zero */
#define COARSE 1e-6         /* what rounding may leave of it where no step goes on */
#define MOST_STEPS 200      /* Newton steps at one penalty */
#define MOST_SWEEPS 1000    /* sweeps of coordinate descent in one step */
#define DEAR 16             /* so many rows more are worth one sweep more before their equations are factored */
#define WIDEST 500.0        /* a wider range of linear predictors is a fit that runs away */
#define FLAT 1e-12          /* a curvature below this share of its parts is none */
#define DRIFT 0.1           /* a column (almost) without a penalty that still moves so far at a score of 0 runs away */

enum { DONE = 0, RUNS_AWAY = 1, NO_MEMORY = -1 };
enum { COX = 0, LOGISTIC = 1 };

typedef struct {
    int family;
    int64_t n, ld, p;       /* cases, cases rounded up, columns of the design */
    int64_t width;          /* columns that are fitted: those of the design, and for logistic models one of ones */
    const double *x;        /* ld x width */
    const double *y;        /* ld: event, or outcome */
    int64_t groups, depth;  /* distinct event times over all strata, and that rounded up (both 0 in logistic models) */
    const int64_t *begin;   /* groups: the first case that is in this risk set and not in the former one's */
    const int64_t *end;     /* groups: where the risk set ends; it begins where its stratum does */
    const int64_t *fresh;   /* groups: 1 for the first of a stratum */
    const int64_t *group;   /* ld: the first risk set that a case is in; `groups` if it is in none */
    const double *deaths;   /* groups: events at that time */
} Problem;

typedef struct {
    const Problem *q;
    const double *factor;                   /* width */
    double l1, tolerance, scale;
    double *cut, *ridge;                    /* width: l1 and l2 penalty of each column at the present penalty */
    double *b, *score;                      /* width */
    double *eta, *next, *r, *e;             /* ld: linear predictor, a trial one, derivative by it / n, see `evaluate` */
    double *share, *behind;                 /* depth: deaths / sum over the risk set; its sum over later risk sets */
    double *held;                           /* ld: scratch */
    double value;                           /* -log-likelihood / n at eta */
    unsigned char *strong;                  /* width */
    /* The Gram matrix of the `count` columns in `member`, from weights at a former linear predictor. */
    int64_t count, room;
    int64_t *member, *place;                /* column of each row; row of each column or -1 */
    int64_t *list;                          /* width: scratch */
    double *weight, *risk, *root;           /* ld, ld, depth: the weights and what the means at risk need */
    double *gram, *mean;                    /* room x room; room x depth */
    double *slack;                          /* width: curvatures below are none */
    /* The quadratic problem, row by row, and the factors of the rows that were in the model last. */
    double *trial, *gradient, *cuts, *ridges;
    double *factored;                       /* room x room */
    int64_t n_factored, *inside;
    double *beta, *row;                     /* width: scratch */
} Path;

/* ---- loops over cases ------------------------------------------------------------------------------------------ */

static inline double fold_lanes(const double *s)
{
    return ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

/* Vectors as GCC and Clang know them, the one thing here beyond C99: neither finds sums in lanes by itself. */
typedef double Four __attribute__((vector_size(32), aligned(8), may_alias));

static inline double fold_fours(const Four *low, const Four *high)
{
    const Four sum = *low + *high;
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

/* out[c] = v . base[columns[c]]; each as if it were alone. */
WIDE static void dots(const double *restrict v, const double *restrict base, int64_t ld, const int64_t *columns,
                      int64_t count, double *restrict out)
{
    int64_t c = 0;
    for (; c + 4 <= count; c += 4) {
        const double *restrict x0 = base + columns[c] * ld, *restrict x1 = base + columns[c + 1] * ld;
        const double *restrict x2 = base + columns[c + 2] * ld, *restrict x3 = base + columns[c + 3] * ld;
        Four a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
        for (int64_t i = 0; i < ld; i += LANES) {
            const Four low = *(const Four *)(v + i), high = *(const Four *)(v + i + 4);
            a0 += low * *(const Four *)(x0 + i);
            b0 += high * *(const Four *)(x0 + i + 4);
            a1 += low * *(const Four *)(x1 + i);
            b1 += high * *(const Four *)(x1 + i + 4);
            a2 += low * *(const Four *)(x2 + i);
            b2 += high * *(const Four *)(x2 + i + 4);
            a3 += low * *(const Four *)(x3 + i);
            b3 += high * *(const Four *)(x3 + i + 4);
        }
        out[c] = fold_fours(&a0, &b0);
        out[c + 1] = fold_fours(&a1, &b1);
        out[c + 2] = fold_fours(&a2, &b2);
        out[c + 3] = fold_fours(&a3, &b3);
    }
    for (; c < count; c++) {
        const double *restrict x0 = base + columns[c] * ld;
        Four a0 = {0}, b0 = {0};
        for (int64_t i = 0; i < ld; i += LANES) {
            a0 += *(const Four *)(v + i) * *(const Four *)(x0 + i);
            b0 += *(const Four *)(v + i + 4) * *(const Four *)(x0 + i + 4);
        }
        out[c] = fold_fours(&a0, &b0);
    }
}

/* out = sum over the listed columns of b[c] * x[columns[c]]. */
WIDE static void combine(const double *restrict base, int64_t ld, const int64_t *columns, int64_t count,
                         const double *restrict b, double *restrict out)
{
    int64_t c = 0;
    memset(out, 0, (size_t)ld * sizeof *out);
    for (; c + 4 <= count; c += 4) {
        const double *restrict x0 = base + columns[c] * ld, *restrict x1 = base + columns[c + 1] * ld;
        const double *restrict x2 = base + columns[c + 2] * ld, *restrict x3 = base + columns[c + 3] * ld;
        const double b0 = b[c], b1 = b[c + 1], b2 = b[c + 2], b3 = b[c + 3];
        for (int64_t i = 0; i < ld; i++)
            out[i] = (((out[i] + b0 * x0[i]) + b1 * x1[i]) + b2 * x2[i]) + b3 * x3[i];
    }
    for (; c < count; c++) {
        const double *restrict x0 = base + columns[c] * ld;
        const double b0 = b[c];
        for (int64_t i = 0; i < ld; i++)
            out[i] += b0 * x0[i];
    }
}

WIDE static void multiply(const double *restrict a, const double *restrict b, double *restrict out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] * b[i];
}

/* exp of numbers between -700 and 0, to 2 units in the last place: 2^k times a polynomial of what is left. */
WIDE static void exponential(double *restrict x, int64_t n)
{
    const double whole = 6755399441055744.0; /* 1.5 * 2^52: added, it rounds to a whole number */
    for (int64_t i = 0; i < n; i++) {
        const double shifted = x[i] * 1.4426950408889634 + whole, k = shifted - whole;
        const double t = (x[i] - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;
        double s = 1.0 / 6227020800.0;
        s = s * t + 1.0 / 479001600.0;
        s = s * t + 1.0 / 39916800.0;
        s = s * t + 1.0 / 3628800.0;
        s = s * t + 1.0 / 362880.0;
        s = s * t + 1.0 / 40320.0;
        s = s * t + 1.0 / 5040.0;
        s = s * t + 1.0 / 720.0;
        s = s * t + 1.0 / 120.0;
        s = s * t + 1.0 / 24.0;
        s = s * t + 1.0 / 6.0;
        s = s * t + 0.5;
        s = s * t + 1.0;
        s = s * t + 1.0;
        int64_t bits;
        double power;
        memcpy(&bits, &shifted, sizeof bits);
        bits = (int64_t)(((uint64_t)bits + 1023) << 52); /* the low bits of `shifted` are k */
        memcpy(&power, &bits, sizeof power);
        x[i] = s * power;
    }
}

/* The largest and the smallest of some numbers (n > 0). */
static void extremes(const double *x, int64_t n, double *top, double *bottom)
{
    double high[4], low[4];
    int64_t i = 0;
    for (int k = 0; k < 4; k++)
        high[k] = low[k] = x[0];
    for (; i + 4 <= n; i += 4)
        for (int k = 0; k < 4; k++) {
            high[k] = x[i + k] > high[k] ? x[i + k] : high[k];
            low[k] = x[i + k] < low[k] ? x[i + k] : low[k];
        }
    for (; i < n; i++) {
        high[0] = x[i] > high[0] ? x[i] : high[0];
        low[0] = x[i] < low[0] ? x[i] : low[0];
    }
    *top = high[0];
    *bottom = low[0];
    for (int k = 1; k < 4; k++) {
        *top = high[k] > *top ? high[k] : *top;
        *bottom = low[k] < *bottom ? low[k] : *bottom;
    }
}

/* ---- likelihoods ------------------------------------------------------------------------------------------------ */

/* Breslow's partial log-likelihood of each stratum, summed, over -n. Fills `e` (risk of each case, up to a factor of its
 * stratum), `share` (deaths over the sum of risks, at each event time), `behind` (sums of shares from each event time
 * to the end of the stratum's risk sets) and, where wanted, `r`. */
static double evaluate_cox(const Problem *q, const double *eta, double *e, double *share, double *behind, double *r)
{
    const double each = 1.0 / (double)q->n;
    double sum = 0.0, product = 1.0; /* of sums over risk sets: few logarithms of products are as good as many */
    int64_t cases = 0;
    for (int64_t g = 0; g < q->groups;) {
        int64_t next = g + 1;
        while (next < q->groups && !q->fresh[next])
            next++;
        const int64_t first = q->begin[g], last = q->end[next - 1];
        double top, bottom;
        extremes(eta + first, last - first, &top, &bottom);
        if (!(top - bottom <= WIDEST))
            return INFINITY;
        for (; cases < first; cases++)
            e[cases] = 0.0;
        for (; cases < last; cases++) {
            e[cases] = eta[cases] - top;
            sum += q->y[cases] * e[cases];
        }
        g = next;
    }
    for (; cases < q->ld; cases++)
        e[cases] = 0.0;
    exponential(e, q->ld);
    double run = 0.0;
    for (int64_t g = 0, i = 0; g < q->groups; g++) {
        if (q->fresh[g]) {
            i = q->begin[g];
            run = 0.0;
        }
        for (; i < q->end[g]; i++)
            run += e[i];
        share[g] = q->deaths[g] / run;
        for (double death = 0.0; death < q->deaths[g]; death += 1.0) {
            product *= run;
            if (product > 1e60 || product < 1e-60) { /* a sum is no less than exp(-WIDEST) */
                sum -= log(product);
                product = 1.0;
            }
        }
    }
    sum -= log(product);
    double later = 0.0;
    for (int64_t g = q->groups - 1; g >= 0; g--) {
        later += share[g];
        behind[g] = later;
        later = q->fresh[g] ? 0.0 : later;
    }
    behind[q->groups] = 0.0;
    if (r)
        for (int64_t i = 0; i < q->ld; i++)
            r[i] = (q->y[i] - e[i] * behind[q->group[i]]) * each;
    return -sum * each;
}

/* Bernoulli log-likelihood over -n. Fills `e` (variance of each case / n) and, where wanted, `r`. */
static double evaluate_logistic(const Problem *q, const double *eta, double *e, double *r)
{
    const double each = 1.0 / (double)q->n;
    double sum = 0.0, product = 1.0;
    for (int64_t i = 0; i < q->n; i++) {
        const double size = fabs(eta[i]);
        if (!(size <= WIDEST))
            return INFINITY;
        e[i] = -size;
    }
    for (int64_t i = q->n; i < q->ld; i++)
        e[i] = 0.0;
    exponential(e, q->ld);
    for (int64_t i = 0; i < q->n; i++) {
        const double small = e[i] / (1.0 + e[i]), large = 1.0 / (1.0 + e[i]);
        const double probability = eta[i] > 0 ? large : small;
        /* One logarithm of a product of up to 512 numbers below 2. */
        product *= 1.0 + e[i];
        if ((i & 511) == 511) {
            sum += log(product);
            product = 1.0;
        }
        if ((eta[i] > 0) != (q->y[i] > 0.5))
            sum += fabs(eta[i]);
        if (r)
            r[i] = (q->y[i] - probability) * each;
        e[i] = small * large * each;
    }
    for (int64_t i = q->n; i < q->ld; i++) {
        e[i] = 0.0;
        if (r)
            r[i] = 0.0;
    }
    return (sum + log(product)) * each;
}

static double evaluate(const Problem *q, const double *eta, double *e, double *share, double *behind, double *r)
{
    return q->family == COX ? evaluate_cox(q, eta, e, share, behind, r) : evaluate_logistic(q, eta, e, r);
}

/* ---- the Gram matrix -------------------------------------------------------------------------------------------- */

static int reserve(Path *s, int64_t rows)
{
    if (rows <= s->room)
        return DONE;
    int64_t room = s->room ? s->room : 32;
    while (room < rows)
        room *= 2;
    if (room > s->q->width)
        room = s->q->width;
    double *gram = malloc((size_t)(room * room) * sizeof *gram);
    double *mean = malloc((size_t)(room * s->q->depth + 1) * sizeof *mean);
    double *factored = malloc((size_t)(room * room) * sizeof *factored);
    if (!gram || !mean || !factored) {
        free(gram);
        free(mean);
        free(factored);
        return NO_MEMORY;
    }
    for (int64_t a = 0; a < s->count; a++)
        memcpy(gram + a * room, s->gram + a * s->room, (size_t)s->count * sizeof *gram);
    if (s->count)
        memcpy(mean, s->mean, (size_t)(s->count * s->q->depth) * sizeof *mean);
    free(s->gram);
    free(s->mean);
    free(s->factored);
    s->factored = factored;
    s->n_factored = 0;
    s->gram = gram;
    s->mean = mean;
    s->room = room;
    return DONE;
}

/* Means of up to four columns over each risk set, times the root of the deaths: so that their products are what the
 * second derivatives of the partial likelihood lack. */
static void means_at_risk(const Path *s, const int64_t *columns, int64_t count, double *out)
{
    const Problem *q = s->q;
    const double *x[4];
    for (int64_t k = 0; k < 4; k++)
        x[k] = q->x + columns[k < count ? k : 0] * q->ld;
    double a = 0.0, b = 0.0, c = 0.0, d = 0.0;
    double *to[4];
    for (int64_t k = 0; k < 4; k++)
        to[k] = out + (k < count ? k : 0) * q->depth;
    for (int64_t g = 0; g < q->groups; g++) {
        if (q->fresh[g])
            a = b = c = d = 0.0;
        for (int64_t i = q->begin[g]; i < q->end[g]; i++) {
            a += s->risk[i] * x[0][i];
            b += s->risk[i] * x[1][i];
            c += s->risk[i] * x[2][i];
            d += s->risk[i] * x[3][i];
        }
        to[0][g] = a * s->root[g];
        if (count > 1)
            to[1][g] = b * s->root[g];
        if (count > 2)
            to[2][g] = c * s->root[g];
        if (count > 3)
            to[3][g] = d * s->root[g];
    }
    for (int64_t k = 0; k < count; k++)
        for (int64_t g = q->groups; g < q->depth; g++)
            to[k][g] = 0.0;
}

/* Adds a column: second derivatives of f by it and by each member. For Cox that is the weighted product of the columns
 * less the product of their means at risk, event time by event time. */
static int join(Path *s, int64_t column, int has_mean)
{
    const Problem *q = s->q;
    const int64_t a = s->count;
    if (s->place[column] >= 0)
        return DONE;
    if (reserve(s, a + 1))
        return NO_MEMORY;
    multiply(s->weight, q->x + column * q->ld, s->held, q->ld);
    s->member[a] = column;
    s->place[column] = a;
    s->count = a + 1;
    dots(s->held, q->x, q->ld, s->member, a + 1, s->row);
    s->slack[a] = FLAT * s->row[a];
    if (q->family == COX) {
        double *mean = s->mean + a * q->depth;
        if (!has_mean)
            means_at_risk(s, &column, 1, mean);
        for (int64_t k = 0; k <= a; k++)
            s->list[k] = k;
        dots(mean, s->mean, q->depth, s->list, a + 1, s->gradient);
        for (int64_t k = 0; k <= a; k++)
            s->row[k] -= s->gradient[k];
    }
    for (int64_t k = 0; k <= a; k++)
        s->gram[a * s->room + k] = s->gram[k * s->room + a] = s->row[k];
    return DONE;
}

/* Takes the weights at the present linear predictor; only columns stay that are in the model. */
static int renew(Path *s)
{
    const Problem *q = s->q;
    const int64_t former = s->count;
    int64_t stay = 0;
    for (int64_t a = 0; a < former; a++) {
        const int64_t column = s->member[a];
        s->place[column] = -1;
        if (s->b[column] != 0.0 || s->factor[column] == 0.0)
            s->inside[stay++] = column;
    }
    s->count = s->n_factored = 0;
    if (q->family == COX) {
        const double each = 1.0 / (double)q->n;
        memcpy(s->risk, s->e, (size_t)q->ld * sizeof *s->e);
        for (int64_t i = 0; i < q->ld; i++)
            s->weight[i] = s->e[i] * s->behind[q->group[i]] * each;
        for (int64_t g = 0; g < q->groups; g++)
            s->root[g] = s->share[g] * sqrt(each / q->deaths[g]);
        for (int64_t a = 0; a < stay; a += 4)
            means_at_risk(s, s->inside + a, stay - a < 4 ? stay - a : 4, s->mean + a * q->depth);
    } else
        memcpy(s->weight, s->e, (size_t)q->ld * sizeof *s->e);
    for (int64_t a = 0; a < stay; a++)
        if (join(s, s->inside[a], 1))
            return NO_MEMORY;
    return DONE;
}

/* ---- one penalty ------------------------------------------------------------------------------------------------ */

static inline double violation_of(const Path *s, int64_t j)
{
    const double b = s->b[j], g = s->score[j] - s->ridge[j] * b;
    if (b > 0)
        return fabs(g - s->cut[j]);
    if (b < 0)
        return fabs(g + s->cut[j]);
    return fabs(g) > s->cut[j] ? fabs(g) - s->cut[j] : 0.0;
}

static void score_members(Path *s)
{
    dots(s->r, s->q->x, s->q->ld, s->member, s->count, s->row);
    for (int64_t a = 0; a < s->count; a++)
        s->score[s->member[a]] = s->row[a];
}

static inline double penalty_of(const Path *s, int64_t j, double b)
{
    return s->cut[j] * fabs(b) + 0.5 * s->ridge[j] * b * b;
}

/* Scores of the columns that are strong (or of those that aren't) and no members; those that violate the conditions
 * become members. Returns how many. */
static int64_t admit(Path *s, int strong)
{
    int64_t found = 0, asked = 0;
    for (int64_t j = 0; j < s->q->width; j++)
        if (s->place[j] < 0 && s->strong[j] == strong)
            s->list[asked++] = j;
    dots(s->r, s->q->x, s->q->ld, s->list, asked, s->row);
    for (int64_t k = 0; k < asked; k++)
        s->score[s->list[k]] = s->row[k];
    /* `join` uses the list. */
    for (int64_t j = 0; j < s->q->width; j++)
        if (s->place[j] < 0 && s->strong[j] == strong && violation_of(s, j) > s->tolerance) {
            if (join(s, j, 0))
                return NO_MEMORY;
            found++;
        }
    return found;
}

static inline void less(double *restrict a, const double *restrict b, double times, int64_t from, int64_t to)
{
    for (int64_t i = from; i < to; i++)
        a[i] -= times * b[i];
}

/* Factors the second derivatives of the rows in `inside`, U'DU by rows; 0 where they are (nearly) singular. */
WIDE static int factor_rows(Path *s, int64_t inside)
{
    double *u = s->factored;
    for (int64_t i = 0; i < inside; i++) {
        const double *g = s->gram + s->inside[i] * s->room;
        for (int64_t k = i; k < inside; k++)
            u[i * s->room + k] = g[s->inside[k]];
        u[i * s->room + i] += s->ridge[s->member[s->inside[i]]];
        s->beta[i] = 1e-9 * u[i * s->room + i];
    }
    for (int64_t k = 0; k < inside; k++) {
        const double *row = u + k * s->room;
        if (!(row[k] > s->beta[k]))
            return 0;
        const double inverse = 1.0 / row[k];
        for (int64_t i = k + 1; i < inside; i++)
            less(u + i * s->room, row, row[i] * inverse, i, inside);
    }
    return 1;
}

WIDE static void solve_rows(const Path *s, int64_t inside, double *restrict x)
{
    const double *u = s->factored;
    for (int64_t k = 0; k < inside; k++) {
        const double *row = u + k * s->room;
        less(x, row, x[k] / row[k], k + 1, inside);
    }
    for (int64_t k = inside - 1; k >= 0; k--) {
        const double *row = u + k * s->room;
        double lanes[LANES] = {0};
        int64_t i = k + 1;
        for (; i + LANES <= inside; i += LANES)
            for (int l = 0; l < LANES; l++)
                lanes[l] += row[i + l] * x[i + l];
        for (int l = 0; i < inside; i++, l++)
            lanes[l] += row[i] * x[i];
        x[k] = (x[k] - fold_lanes(lanes)) / row[k];
    }
}

/* One sweep of coordinate descent; returns the largest change of a derivative. */
WIDE static double sweep_rows(Path *s)
{
    const int64_t count = s->count;
    double moved = 0.0;
    for (int64_t a = 0; a < count; a++) {
        const double *restrict g = s->gram + a * s->room;
        const double h = g[a], cut = s->cuts[a], total = h + s->ridges[a], old = s->trial[a];
        const double target = s->gradient[a] + h * old;
        if ((old == 0.0 && fabs(target) <= cut) || h <= s->slack[a] || h <= 0.0)
            continue;
        const double value = target > cut ? (target - cut) / total : target < -cut ? (target + cut) / total : 0.0;
        const double step = value - old;
        if (step == 0.0)
            continue;
        s->trial[a] = value;
        less(s->gradient, g, step, 0, count);
        moved = fabs(step) * total > moved ? fabs(step) * total : moved;
    }
    return moved;
}

WIDE static void move_rows(Path *s, int64_t inside, const double *step)
{
    for (int64_t i = 0; i < inside; i++) {
        s->trial[s->inside[i]] += step[i];
        less(s->gradient, s->gram + s->inside[i] * s->room, step[i], 0, s->count);
    }
}

/* Goes to the solution of the rows that are not 0, as far as none of them changes its sign. */
static int leap(Path *s)
{
    int64_t inside = 0, same = 1;
    for (int64_t a = 0; a < s->count; a++)
        if (s->trial[a] != 0.0) {
            same = same && inside < s->n_factored && s->inside[inside] == a;
            s->inside[inside++] = a;
        }
    if (!inside)
        return 1;
    if (!same || inside != s->n_factored) {
        s->n_factored = 0;
        if (!factor_rows(s, inside))
            return 0;
        s->n_factored = inside;
    }
    double *x = s->beta, part = 1.0;
    int64_t stop = -1;
    for (int64_t i = 0; i < inside; i++) {
        const int64_t a = s->inside[i];
        const double b = s->trial[a];
        x[i] = s->gradient[a] - s->ridges[a] * b - (b > 0 ? s->cuts[a] : -s->cuts[a]);
    }
    solve_rows(s, inside, x);
    for (int64_t i = 0; i < inside; i++) {
        const double b = s->trial[s->inside[i]];
        if (s->cuts[s->inside[i]] > 0.0 && b * (b + part * x[i]) < 0.0) {
            part = -b / x[i];
            stop = i;
        }
    }
    for (int64_t i = 0; i < inside; i++)
        x[i] = i == stop ? -s->trial[s->inside[i]] : part * x[i];
    move_rows(s, inside, x);
    return 1;
}

/* Solves the quadratic problem at b; `trial` is its solution, row by row. Coordinate descent finds which columns are in
 * the model, and from time to time their equations are solved at once. */
static void descend(Path *s, double until)
{
    int leaps = 1;
    int64_t next = 1, inside = 0;
    for (int64_t a = 0; a < s->count; a++) {
        const int64_t j = s->member[a];
        inside += s->b[j] != 0.0;
        s->trial[a] = s->b[j];
        s->gradient[a] = s->score[j];
        s->cuts[a] = s->cut[j];
        s->ridges[a] = s->ridge[j];
    }
    for (int sweep = 1; sweep <= MOST_SWEEPS; sweep++) {
        if (sweep_rows(s) <= until)
            break;
        if (leaps && sweep >= next) {
            leaps = leap(s);
            next = sweep + 1 + inside / DEAR;
        }
    }
}

/* Moves b to the trial, or part of the way where f would rise. Returns the part, 0 where nothing helps. */
static double advance(Path *s)
{
    const Problem *q = s->q;
    double before = 0.0, after = 0.0, slope = 0.0, part = 1.0;
    int64_t inside = 0;
    for (int64_t a = 0; a < s->count; a++) {
        const int64_t j = s->member[a];
        before += penalty_of(s, j, s->b[j]);
        after += penalty_of(s, j, s->trial[a]);
        slope -= s->score[j] * (s->trial[a] - s->b[j]);
        if (s->trial[a] != 0.0) {
            s->row[inside] = s->trial[a];
            s->list[inside++] = j;
        }
    }
    slope += after - before;
    combine(q->x, q->ld, s->list, inside, s->row, s->next);
    /* Where f can't tell the difference any more, the conditions at the end decide. */
    const int blind = fabs(slope) <= 1e-13 * (1.0 + fabs(s->value + before));
    for (int halving = 0; halving < 40; halving++, part *= 0.5) {
        if (halving) {
            after = 0.0;
            for (int64_t i = 0; i < q->ld; i++)
                s->next[i] = 0.5 * (s->next[i] + s->eta[i]);
            for (int64_t a = 0; a < s->count; a++) {
                s->trial[a] = 0.5 * (s->trial[a] + s->b[s->member[a]]);
                after += penalty_of(s, s->member[a], s->trial[a]);
            }
        }
        const double value = evaluate(q, s->next, s->e, s->share, s->behind, s->r);
        if (value < INFINITY && (blind || value + after <= s->value + before + 1e-4 * part * slope)) {
            double *former = s->eta;
            s->eta = s->next;
            s->next = former;
            s->value = value;
            for (int64_t a = 0; a < s->count; a++)
                s->b[s->member[a]] = s->trial[a];
            return part;
        }
    }
    evaluate(q, s->eta, s->e, s->share, s->behind, s->r);
    return 0.0;
}

/* Brings b to the minimum at the present penalties. With `only_members` no other column enters. */
static int solve(Path *s, int only_members)
{
    double former = INFINITY, drift = 0.0, enough = s->tolerance;
    int drifted = 0, stale = 0, renewed = 0;
    for (int step = 0; step < MOST_STEPS; step++) {
        double violation = 0.0;
        for (int64_t a = 0; a < s->count; a++) {
            const double one = violation_of(s, s->member[a]);
            violation = one > violation ? one : violation;
        }
        if (violation <= enough && drift > DRIFT) {
            if (++drifted > 3)
                return RUNS_AWAY;
            stale = 1;
        } else if (violation <= enough) {
            if (only_members)
                return DONE;
            int64_t found = admit(s, 1);
            if (!found)
                found = admit(s, 0);
            if (found <= 0)
                return found ? NO_MEMORY : DONE;
            former = INFINITY;
            enough = s->tolerance;
            continue;
        }
        stale |= violation > 0.1 * former;
        if (stale) {
            if (renew(s))
                return NO_MEMORY;
            renewed = 1;
            stale = 0;
        }
        descend(s, 0.01 * violation);
        drift = 0.0;
        for (int64_t a = 0; a < s->count; a++) {
            const int64_t j = s->member[a];
            const double move = fabs(s->trial[a] - s->b[j]);
            if (s->cut[j] + s->ridge[j] <= s->tolerance && move > drift)
                drift = move;
        }
        const double part = advance(s);
        former = violation;
        if (part == 0.0) {
            if (!renewed)
                stale = 1;
            else if (violation <= COARSE * s->scale)
                enough = violation;
            else
                return RUNS_AWAY;
            drift = 0.0;
            continue;
        }
        stale = part < 1.0;
        renewed = 0;
        score_members(s);
    }
    return RUNS_AWAY;
}

/* ---- one path --------------------------------------------------------------------------------------------------- */

static void close_path(Path *s)
{
    void *const blocks[] = {s->cut,   s->ridge,  s->b,        s->score, s->eta,    s->next, s->r,     s->e,    s->share, s->behind,
                            s->held,  s->strong, s->member,   s->place, s->list,   s->weight, s->risk, s->root, s->gram,
                            s->mean,  s->slack,  s->trial,    s->gradient, s->cuts, s->ridges, s->factored, s->inside,
                            s->beta,  s->row};
    for (size_t k = 0; k < sizeof blocks / sizeof *blocks; k++)
        free(blocks[k]);
}

static int open_path(Path *s, const Problem *q, const double *factor, double l1)
{
    const size_t wide = (size_t)q->width + 1, tall = (size_t)q->ld + 1, deep = (size_t)q->depth + 1;
    memset(s, 0, sizeof *s);
    s->q = q;
    s->factor = factor;
    s->l1 = l1;
    double **const columns[] = {&s->cut,      &s->ridge, &s->b,      &s->score, &s->slack, &s->trial,
                                &s->gradient, &s->cuts,  &s->ridges, &s->beta,  &s->row};
    double **const cases[] = {&s->eta, &s->next, &s->r, &s->e, &s->held, &s->weight, &s->risk};
    double **const times[] = {&s->share, &s->behind, &s->root};
    int64_t **const lists[] = {&s->member, &s->place, &s->list, &s->inside};
    int missing = 0;
    for (size_t k = 0; k < sizeof columns / sizeof *columns; k++)
        missing |= !(*columns[k] = calloc(wide, sizeof(double)));
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++)
        missing |= !(*cases[k] = calloc(tall, sizeof(double)));
    for (size_t k = 0; k < sizeof times / sizeof *times; k++)
        missing |= !(*times[k] = calloc(deep, sizeof(double)));
    for (size_t k = 0; k < sizeof lists / sizeof *lists; k++)
        missing |= !(*lists[k] = calloc(wide, sizeof(int64_t)));
    missing |= !(s->strong = calloc(wide, 1));
    if (missing) {
        close_path(s);
        return NO_MEMORY;
    }
    for (int64_t j = 0; j < q->width; j++)
        s->place[j] = -1;
    return DONE;
}

static void score_all(Path *s)
{
    for (int64_t j = 0; j < s->q->width; j++)
        s->list[j] = j;
    dots(s->r, s->q->x, s->q->ld, s->list, s->q->width, s->score);
}

/* The model of the columns without a penalty; sets the scale of the tolerance and the scores of all columns. */
static int start_path(Path *s)
{
    const Problem *q = s->q;
    if (q->family == LOGISTIC) {
        double sum = 0.0;
        for (int64_t i = 0; i < q->n; i++)
            sum += q->y[i];
        const double b0 = log(sum / ((double)q->n - sum));
        s->b[q->p] = b0;
        for (int64_t i = 0; i < q->n; i++)
            s->eta[i] = b0;
    }
    s->value = evaluate(q, s->eta, s->e, s->share, s->behind, s->r);
    score_all(s);
    s->scale = 0.0;
    for (int64_t j = 0; j < q->p; j++)
        s->scale = fabs(s->score[j]) > s->scale ? fabs(s->score[j]) : s->scale;
    s->tolerance = TOLERANCE * s->scale;
    if (s->tolerance < 1e-15)
        s->tolerance = 1e-15;
    if (renew(s)) /* sets the weights: there is no member yet */
        return NO_MEMORY;
    for (int64_t j = 0; j < q->width; j++)
        if (s->factor[j] == 0.0 && join(s, j, 0))
            return NO_MEMORY;
    const int state = solve(s, 1);
    if (state == DONE)
        score_all(s);
    return state;
}

static double largest_penalty(const Path *s, double least_l1)
{
    const double l1 = s->l1 > least_l1 ? s->l1 : least_l1;
    double largest = 0.0;
    for (int64_t j = 0; j < s->q->p; j++)
        if (s->factor[j] > 0.0 && fabs(s->score[j]) / (s->factor[j] * l1) > largest)
            largest = fabs(s->score[j]) / (s->factor[j] * l1);
    return largest;
}

/* Solves at one penalty; `former` is the one that b solves now. */
static int step_path(Path *s, double penalty, double former)
{
    const int64_t width = s->q->width;
    if (s->l1 < 1.0)
        s->n_factored = 0; /* the factors hold the former ridge */
    for (int64_t j = 0; j < width; j++) {
        s->cut[j] = penalty * s->l1 * s->factor[j];
        s->ridge[j] = penalty * (1.0 - s->l1) * s->factor[j];
        s->strong[j] = s->b[j] != 0.0 || fabs(s->score[j]) >= s->l1 * s->factor[j] * (2.0 * penalty - former);
    }
    for (int64_t j = 0; j < width; j++)
        if (s->place[j] < 0 && violation_of(s, j) > s->tolerance && join(s, j, 0))
            return NO_MEMORY;
    return solve(s, 0);
}

/* ---- whole and folds -------------------------------------------------------------------------------------------- */

static int64_t rounded(int64_t n)
{
    return (n + LANES - 1) / LANES * LANES;
}

/* What a problem owns, so that it can be made for the training cases of a fold too. */
typedef struct {
    Problem q;
    double *x, *y, *deaths;
    int64_t *begin, *end, *fresh, *group;
} Owned;

static void release(Owned *o)
{
    free(o->x);
    free(o->y);
    free(o->deaths);
    free(o->begin);
    free(o->end);
    free(o->fresh);
    free(o->group);
}

/* The problem of the given rows of a design of `n` cases (x: n x p, columns contiguous), in their order. */
static int own(Owned *o, int family, int64_t p, int64_t n, const double *x, const double *y, const int64_t *stratum,
               const double *time, const int64_t *rows, int64_t chosen)
{
    const int64_t ld = rounded(chosen), width = p + (family == LOGISTIC);
    memset(o, 0, sizeof *o);
    o->x = calloc((size_t)(ld * width + 1), sizeof(double));
    o->y = calloc((size_t)ld + 1, sizeof(double));
    o->deaths = calloc((size_t)chosen + 1, sizeof(double));
    o->begin = calloc((size_t)chosen + 1, sizeof(int64_t));
    o->end = calloc((size_t)chosen + 1, sizeof(int64_t));
    o->fresh = calloc((size_t)chosen + 1, sizeof(int64_t));
    o->group = calloc((size_t)ld + 1, sizeof(int64_t));
    if (!o->x || !o->y || !o->deaths || !o->begin || !o->end || !o->fresh || !o->group) {
        release(o);
        return NO_MEMORY;
    }
    for (int64_t j = 0; j < p; j++)
        for (int64_t i = 0; i < chosen; i++)
            o->x[j * ld + i] = x[j * n + rows[i]];
    for (int64_t i = 0; i < chosen; i++)
        o->y[i] = y[rows[i]];
    int64_t groups = 0;
    if (family == LOGISTIC)
        for (int64_t i = 0; i < chosen; i++)
            o->x[p * ld + i] = 1.0;
    else
        for (int64_t first = 0; first < chosen;) {
            int64_t last = first;
            int64_t from = first, fresh = 1;
            while (last < chosen && stratum[rows[last]] == stratum[rows[first]]) {
                const double now = time[rows[last]];
                double deaths = 0.0;
                for (; last < chosen && stratum[rows[last]] == stratum[rows[first]] && time[rows[last]] == now; last++)
                    deaths += o->y[last];
                if (deaths > 0) {
                    o->begin[groups] = from;
                    o->end[groups] = last;
                    o->fresh[groups] = fresh;
                    o->deaths[groups++] = deaths;
                    from = last;
                    fresh = 0;
                }
            }
            first = last;
        }
    for (int64_t i = 0; i < ld; i++)
        o->group[i] = groups;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = o->begin[g]; i < o->end[g]; i++)
            o->group[i] = g;
    o->q = (Problem){.family = family, .n = chosen, .ld = ld, .p = p, .width = width, .x = o->x, .y = o->y,
                     .groups = groups, .depth = rounded(groups), .begin = o->begin, .end = o->end, .fresh = o->fresh,
                     .group = o->group, .deaths = o->deaths};
    return DONE;
}

/* Fits the path of one fold's training cases and measures the deviance that its held cases add, at each penalty. */
static int fold_path(int family, int64_t n, int64_t p, const double *x, const double *y, const int64_t *stratum,
                     const double *time, const int64_t *fold, int64_t number, const double *factor, double l1,
                     double least_l1, int64_t n_penalties, const double *penalties, const Problem *whole,
                     double *deviance)
{
    int64_t *rows = malloc((size_t)(n + 1) * sizeof *rows);
    double *eta = calloc((size_t)(3 * rounded(n) + 2 * (whole->depth + 1)), sizeof *eta);
    double *held = eta ? eta + rounded(n) : NULL, *e = eta ? eta + 2 * rounded(n) : NULL;
    double *share = eta ? eta + 3 * rounded(n) : NULL, *behind = eta ? share + whole->depth + 1 : NULL;
    Owned train, test;
    Path s;
    int state = NO_MEMORY, opened = 0, trained = 0, tested = 0;
    int64_t n_train = 0, n_test = 0;
    for (int64_t k = 0; k < n_penalties; k++)
        deviance[k] = NAN;
    if (!rows || !eta)
        goto out;
    for (int64_t i = 0; i < n; i++)
        if (fold[i] != number)
            rows[n_train++] = i;
    for (int64_t i = 0; i < n; i++)
        if (fold[i] == number)
            rows[n_train + n_test++] = i;
    if (own(&train, family, p, n, x, y, stratum, time, rows, n_train))
        goto out;
    trained = 1;
    if (own(&test, family, p, n, x, y, stratum, time, rows + n_train, n_test))
        goto out;
    tested = 1;
    if (open_path(&s, &train.q, factor, l1))
        goto out;
    opened = 1;
    state = start_path(&s);
    double former = state == DONE ? largest_penalty(&s, least_l1) : 0.0;
    for (int64_t k = 0; k < n_penalties && state == DONE; k++) {
        int64_t inside = 0;
        state = step_path(&s, penalties[k], former);
        if (state != DONE)
            break;
        former = penalties[k];
        for (int64_t j = 0; j < train.q.width; j++)
            if (s.b[j] != 0.0) {
                s.row[inside] = s.b[j];
                s.list[inside++] = j;
            }
        combine(test.q.x, test.q.ld, s.list, inside, s.row, held);
        if (family == LOGISTIC)
            deviance[k] = 2.0 * evaluate(&test.q, held, e, share, behind, NULL) * (double)n_test;
        else {
            for (int64_t i = 0; i < n_train; i++)
                eta[rows[i]] = s.eta[i];
            for (int64_t i = 0; i < n_test; i++)
                eta[rows[n_train + i]] = held[i];
            deviance[k] = 2.0 * (evaluate(whole, eta, e, share, behind, NULL) * (double)n - s.value * (double)n_train);
        }
    }
out:
    if (opened)
        close_path(&s);
    if (tested)
        release(&test);
    if (trained)
        release(&train);
    free(rows);
    free(eta);
    return state == NO_MEMORY ? NO_MEMORY : DONE;
}

/* The path of all cases and, for each of `n_folds` folds, the deviance that the held cases add under the path of the others.
 *
 * Cases come sorted: for Cox by stratum, then time, the longest first; x is n x p, columns contiguous. With `given` 0 the
 * penalties are shares of the one at which the first column enters, and multiplied by it here. Coefficients are
 * n_penalties x p, NaN from the penalty on at which the fit runs away; deviance is n_folds x n_penalties. Returns 1
 * where the model of the unpenalised columns alone runs away, -1 without memory. */
int64_t paths(int family, int64_t n, int64_t p, const double *x, const double *y, const int64_t *stratum,
              const double *time, const double *factor, double l1, double least_l1, int given, int64_t n_penalties,
              double *penalties, const int64_t *fold, int64_t n_folds, double *intercepts, double *coefficients,
              double *deviance)
{
    Owned whole;
    Path s;
    int state = NO_MEMORY;
    int64_t *rows = malloc((size_t)(n + 1) * sizeof *rows);
    if (!rows)
        return NO_MEMORY;
    for (int64_t i = 0; i < n; i++)
        rows[i] = i;
    state = own(&whole, family, p, n, x, y, stratum, time, rows, n);
    free(rows);
    if (state)
        return state;
    if (open_path(&s, &whole.q, factor, l1)) {
        release(&whole);
        return NO_MEMORY;
    }
    for (int64_t k = 0; k < n_penalties; k++) {
        intercepts[k] = NAN;
        for (int64_t j = 0; j < p; j++)
            coefficients[k * p + j] = NAN;
    }
    state = start_path(&s);
    const int started = state;
    if (state == DONE) {
        const double largest = largest_penalty(&s, least_l1);
        if (!given)
            for (int64_t k = 0; k < n_penalties; k++)
                penalties[k] *= largest;
        double former = largest;
        for (int64_t k = 0; k < n_penalties; k++) {
            state = step_path(&s, penalties[k], former);
            if (state != DONE)
                break;
            former = penalties[k];
            memcpy(coefficients + k * p, s.b, (size_t)p * sizeof *s.b);
            intercepts[k] = family == LOGISTIC ? s.b[p] : 0.0;
        }
        if (state == RUNS_AWAY)
            state = DONE;
    }
    close_path(&s);
    for (int64_t f = 0; f < n_folds && state == DONE; f++)
        state = fold_path(family, n, p, x, y, stratum, time, fold, f, factor, l1, least_l1, n_penalties, penalties,
                          &whole.q, deviance + f * n_penalties);
    release(&whole);
    return started == RUNS_AWAY ? RUNS_AWAY : state;
}
