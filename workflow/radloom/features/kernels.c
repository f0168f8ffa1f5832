/* The passes over voxels that feature extraction spends its time in; `kernels.py` builds and calls them.
 *
 * Plain C99 without Python's headers, so that one build serves every Python. Volumes are (z, y, x), x fastest. A
 * "padded" volume has a margin of zeros on all sides that is as wide as the farthest neighbour looked at, so that no
 * loop asks whether it is inside. Voxels of an ROI come as runs along x: `start` (flat index into the padded volume)
 * and `length`. Counts are exact integers; nothing here depends on the order of floating point operations of another
 * library, and no option is used under which a compiler may reorder them.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* ---- the ROI ------------------------------------------------------------------------------------------------ */

/* Runs of nonzero mask voxels along x. `padded` gives the size of the padded volume along y and x, `pad` its margin.
 * With `start` NULL it only counts. Returns the number of runs. */
int64_t find_runs(const uint8_t *mask, const int64_t *shape, const int64_t *pad, int64_t *start, int64_t *length)
{
    const int64_t ny = shape[1] + 2 * pad[1], nx = shape[2] + 2 * pad[2];
    int64_t found = 0;
    for (int64_t z = 0; z < shape[0]; z++)
        for (int64_t y = 0; y < shape[1]; y++) {
            const uint8_t *row = mask + (z * shape[1] + y) * shape[2];
            const int64_t first = ((z + pad[0]) * ny + y + pad[1]) * nx + pad[2];
            int64_t x = 0;
            while (x < shape[2]) {
                const uint8_t *next = memchr(row + x, 1, (size_t)(shape[2] - x));
                if (!next)
                    break;
                x = next - row;
                int64_t end = x + 1;
                while (end < shape[2] && row[end])
                    end++;
                if (start) {
                    start[found] = first + x;
                    length[found] = end - x;
                }
                found++;
                x = end;
            }
        }
    return found;
}

/* Sums over the ROI of 1, z, y, x, zz, yy, xx, zy, zx, yx (indices of the unpadded volume), exact below 2^63. */
void index_moments(const uint8_t *mask, const int64_t *shape, int64_t *sums)
{
    memset(sums, 0, 10 * sizeof *sums);
    for (int64_t z = 0; z < shape[0]; z++)
        for (int64_t y = 0; y < shape[1]; y++) {
            const uint8_t *row = mask + (z * shape[1] + y) * shape[2];
            int64_t n = 0, sx = 0, sxx = 0;
            for (int64_t x = 0; x < shape[2]; x++) {
                const int64_t in = row[x];
                n += in;
                sx += in * x;
                sxx += in * x * x;
            }
            sums[0] += n;
            sums[1] += n * z;
            sums[2] += n * y;
            sums[3] += sx;
            sums[4] += n * z * z;
            sums[5] += n * y * y;
            sums[6] += sxx;
            sums[7] += n * z * y;
            sums[8] += sx * z;
            sums[9] += sx * y;
        }
}

/* First and last index along z, y and x of each label 1..n_labels: `boxes` is (n_labels + 1, 6), filled with
 * z0, z1, y0, y1, x0, x1 (last included); a label that isn't there keeps z0 > z1. */
void label_boxes(const uint16_t *labels, const int64_t *shape, int64_t n_labels, int64_t *boxes)
{
    for (int64_t n = 0; n <= n_labels; n++)
        for (int axis = 0; axis < 3; axis++) {
            boxes[6 * n + 2 * axis] = shape[axis];
            boxes[6 * n + 2 * axis + 1] = -1;
        }
    for (int64_t z = 0; z < shape[0]; z++)
        for (int64_t y = 0; y < shape[1]; y++) {
            const uint16_t *row = labels + (z * shape[1] + y) * shape[2];
            int64_t x = 0;
            while (x < shape[2]) {
                const uint16_t label = row[x];
                int64_t end = x + 1;
                while (end < shape[2] && row[end] == label)
                    end++;
                if (label && label <= n_labels) {
                    int64_t *box = boxes + 6 * label;
                    if (z < box[0]) box[0] = z;
                    if (z > box[1]) box[1] = z;
                    if (y < box[2]) box[2] = y;
                    if (y > box[3]) box[3] = y;
                    if (x < box[4]) box[4] = x;
                    if (end - 1 > box[5]) box[5] = end - 1;
                }
                x = end;
            }
        }
}

/* ---- grey levels -------------------------------------------------------------------------------------------- */

/* Level of each value: the number of edges that are not above it (numpy.digitize). `edges` ascend and are about
 * evenly spaced, which only the first guess relies on. */
void digitize(const double *values, int64_t n, const double *edges, int64_t n_edges, int32_t *levels)
{
    const double low = edges[0];
    const double per_bin = (edges[n_edges - 1] - low) / (double)(n_edges - 1);
    for (int64_t i = 0; i < n; i++) {
        const double x = values[i];
        const double guess = floor((x - low) / per_bin);
        int64_t k = guess < 0 ? 0 : guess > (double)(n_edges - 1) ? n_edges - 1 : (int64_t)guess;
        while (k > 0 && x < edges[k])
            k--;
        while (k + 1 < n_edges && x >= edges[k + 1])
            k++;
        levels[i] = x < edges[k] ? 0 : (int32_t)(k + 1);
    }
}

/* Put one level a voxel of the ROI into a padded volume of zeros. */
void scatter(const uint16_t *levels, const int64_t *start, const int64_t *length, int64_t n_runs, uint16_t *volume)
{
    for (int64_t r = 0; r < n_runs; r++) {
        memcpy(volume + start[r], levels, (size_t)length[r] * sizeof *levels);
        levels += length[r];
    }
}

/* ---- texture matrices --------------------------------------------------------------------------------------- */

/* Co-occurrence counts: matrix[d][level of a voxel][level of its neighbour at offset d], of size
 * (n_offsets, ng + 1, ng + 1); row and column 0 count what lies outside the ROI. */
void cooccurrences(const uint16_t *volume, const int64_t *start, const int64_t *length, int64_t n_runs,
                   const int64_t *offsets, int64_t n_offsets, int64_t ng, uint32_t *matrix)
{
    const int64_t side = ng + 1, size = side * side;
    for (int64_t r = 0; r < n_runs; r++)
        for (int64_t i = start[r]; i < start[r] + length[r]; i++) {
            uint32_t *row = matrix + volume[i] * side;
            const uint16_t *here = volume + i;
            for (int64_t d = 0; d < n_offsets; d++)
                row[d * size + here[offsets[d]]]++;
        }
}

/* Run counts: matrix[d][level][run length], of size (n_offsets, ng + 1, max_length + 1); level 0 and length 0 are not
 * used. `run` is scratch of the padded volume's size. A voxel that prolongs a run takes back the shorter one that was
 * counted before it, so that nothing has to look ahead and no branch has to be guessed. */
void run_lengths(const uint16_t *volume, const int64_t *start, const int64_t *length, int64_t n_runs,
                 const int64_t *offsets, int64_t n_offsets, int64_t ng, int64_t max_length, uint16_t *run,
                 uint32_t *matrix)
{
    const int64_t columns = max_length + 1;
    for (int64_t d = 0; d < n_offsets; d++) {
        const int64_t step = offsets[d];
        uint32_t *counts = matrix + d * (ng + 1) * columns;
        for (int64_t r = 0; r < n_runs; r++)
            for (int64_t i = start[r]; i < start[r] + length[r]; i++) {
                const uint16_t level = volume[i];
                const uint16_t goes_on = volume[i - step] == level;
                const uint16_t before = (uint16_t)(run[i - step] & -goes_on);
                uint32_t *at = counts + level * columns + before;
                run[i] = (uint16_t)(before + 1);
                at[0] -= goes_on;
                at[1]++;
            }
    }
}

static int32_t find_root(int32_t *parent, int32_t i)
{
    while (parent[i] != i) {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    return i;
}

/* Zones of equal level: `offsets` are the neighbours that come earlier in memory (all negative, 32 at most), and bit m
 * of `near[k]` says that neighbours k and m touch or are the same: where k has the voxel's level, m of that level is in
 * its zone already. Writes into `zone`, of the padded volume's size, -1, -2, ... for the voxels of the first, second ...
 * zone, and returns their number. */
int64_t find_zones(const uint16_t *volume, const int64_t *start, const int64_t *length, int64_t n_runs,
                   const int64_t *offsets, const uint32_t *near, int64_t n_offsets, int32_t *zone)
{
    int32_t *parent = zone;
    for (int64_t r = 0; r < n_runs; r++)
        for (int64_t i = start[r]; i < start[r] + length[r]; i++) {
            const uint16_t level = volume[i];
            uint32_t same = 0;
            for (int64_t d = 0; d < n_offsets; d++)
                same |= (uint32_t)(volume[i + offsets[d]] == level) << d;
            int32_t root = (int32_t)i;
            parent[i] = root;
            while (same) {
                const int d = __builtin_ctz(same);
                const int32_t other = find_root(parent, (int32_t)(i + offsets[d]));
                if (other < root) {
                    parent[root] = other;
                    root = other;
                } else if (other > root)
                    parent[other] = root;
                same &= ~near[d];
            }
        }
    /* A parent comes before its child, so one pass in order numbers the zones. */
    int32_t found = 0;
    for (int64_t r = 0; r < n_runs; r++)
        for (int64_t i = start[r]; i < start[r] + length[r]; i++)
            zone[i] = parent[i] == i ? -(++found) : zone[parent[i]];
    return found;
}

/* Level and size (from 0) of each zone that `find_zones` found. */
void measure_zones(const uint16_t *volume, const int32_t *zone, const int64_t *start, const int64_t *length,
                   int64_t n_runs, uint16_t *level, int32_t *size)
{
    for (int64_t r = 0; r < n_runs; r++)
        for (int64_t i = start[r]; i < start[r] + length[r]; i++) {
            level[-zone[i] - 1] = volume[i];
            size[-zone[i] - 1]++;
        }
}

#define CHUNK 512

/* Neighbourhoods: dependence[level - 1][dependent neighbours] of size (ng, n_offsets + 1), where a neighbour depends on
 * the voxel if their levels differ by `alpha` at most; and for each level the sum of |level - mean of the neighbours|
 * (0 without neighbours). */
void neighbourhoods(const uint16_t *volume, const int64_t *start, const int64_t *length, int64_t n_runs,
                    const int64_t *offsets, int64_t n_offsets, int64_t alpha, uint32_t *dependence, double *difference)
{
    int32_t sum[CHUNK];
    uint16_t count[CHUNK], dependent[CHUNK];
    const int32_t width = alpha > 65535 ? 65535 : (int32_t)alpha;
    for (int64_t r = 0; r < n_runs; r++)
        for (int64_t done = 0; done < length[r]; done += CHUNK) {
            const int64_t n = length[r] - done < CHUNK ? length[r] - done : CHUNK;
            const uint16_t *here = volume + start[r] + done;
            memset(sum, 0, (size_t)n * sizeof *sum);
            memset(count, 0, (size_t)n * sizeof *count);
            memset(dependent, 0, (size_t)n * sizeof *dependent);
            for (int64_t d = 0; d < n_offsets; d++) {
                const uint16_t *there = here + offsets[d];
                for (int64_t x = 0; x < n; x++)
                    sum[x] += there[x];
                for (int64_t x = 0; x < n; x++)
                    count[x] += there[x] != 0;
                if (width == 0)
                    for (int64_t x = 0; x < n; x++)
                        dependent[x] += there[x] == here[x];
                else
                    for (int64_t x = 0; x < n; x++)
                        dependent[x] += there[x] != 0 && abs((int32_t)there[x] - (int32_t)here[x]) <= width;
            }
            for (int64_t x = 0; x < n; x++) {
                const int64_t level = here[x];
                dependence[(level - 1) * (n_offsets + 1) + dependent[x]]++;
                if (count[x])
                    difference[level - 1] += fabs((double)level - (double)sum[x] / count[x]);
            }
        }
}

/* What the co-occurrence features need of one matrix `p` (ng, ng) whose sum is 1: sums over rows `px` and columns `py`,
 * over equal sums of levels `p_sum` (index level + level) and equal differences `p_difference`, and in `scalars`:
 * 0 sum p i j, 1 sum p^2, 2 max p, 3 -sum p log2(p + eps), 4 sum p (i - ux)(j - uy),
 * 5 -sum p log2(px py + eps), 6 -sum px py log2(px py + eps) (only if `with_product_entropy`).
 * `levels` are the grey levels of the rows. */
void cooccurrence_sums(const double *p, const int32_t *levels, int64_t ng, int with_product_entropy, double *px,
                       double *py, double *p_sum, double *p_difference, double *scalars)
{
    const double eps = 2.220446049250313e-16;
    double product = 0, energy = 0, highest = 0, entropy = 0, ux = 0, uy = 0;
    for (int64_t i = 0; i < ng; i++) {
        const double *row = p + i * ng;
        double in_row = 0;
        for (int64_t j = 0; j < ng; j++) {
            const double v = row[j];
            if (v == 0)
                continue;
            const int32_t difference = levels[i] - levels[j];
            in_row += v;
            py[j] += v;
            p_sum[levels[i] + levels[j]] += v;
            p_difference[difference < 0 ? -difference : difference] += v;
            product += v * levels[i] * levels[j];
            energy += v * v;
            if (v > highest)
                highest = v;
            entropy -= v * log2(v + eps);
        }
        px[i] = in_row;
    }
    for (int64_t i = 0; i < ng; i++) {
        ux += px[i] * levels[i];
        uy += py[i] * levels[i];
    }
    double covariance = 0, cross = 0, independent = 0;
    for (int64_t i = 0; i < ng; i++) {
        const double *row = p + i * ng;
        for (int64_t j = 0; j < ng; j++)
            if (row[j] != 0) {
                covariance += row[j] * (levels[i] - ux) * (levels[j] - uy);
                cross -= row[j] * log2(px[i] * py[j] + eps);
            }
        if (with_product_entropy && px[i] != 0)
            for (int64_t j = 0; j < ng; j++) {
                const double q = px[i] * py[j];
                if (q != 0)
                    independent -= q * log2(q + eps);
            }
    }
    scalars[0] = product;
    scalars[1] = energy;
    scalars[2] = highest;
    scalars[3] = entropy;
    scalars[4] = covariance;
    scalars[5] = cross;
    scalars[6] = independent;
}

/* ---- shape -------------------------------------------------------------------------------------------------- */

/* The marching cubes of a mask with a margin of at least one voxel: how often each configuration of eight corners
 * occurs, `histogram` (256), and the sums of those cubes' z, y and x indices, `position` (256, 3). Bit k of a
 * configuration is the corner that PyRadiomics' mesh calls k: 0 (0,0,0), 1 (0,0,1), 2 (0,1,1), 3 (0,1,0), 4 (1,0,0),
 * 5 (1,0,1), 6 (1,1,1), 7 (1,1,0), as (z, y, x). Configurations 0 and 255, which have no surface, are not counted. With `vertices` NULL the mesh's vertices are only counted; else their coordinates are
 * written, doubled to be integers, as z, y, x. Returns the number of vertices. */
int64_t cubes(const uint8_t *mask, const int64_t *shape, int64_t *histogram, int64_t *position, int32_t *vertices)
{
    const int64_t nx = shape[2], plane = shape[1] * nx;
    uint8_t *corners = malloc((size_t)nx + 16);
    int64_t found = 0;
    if (!corners)
        return -1;
    for (int64_t z = 0; z + 1 < shape[0]; z++)
        for (int64_t y = 0; y + 1 < shape[1]; y++) {
            const uint8_t *a = mask + z * plane + y * nx, *b = a + nx, *c = a + plane, *d = c + nx;
            for (int64_t x = 0; x < nx; x++)
                corners[x] = (uint8_t)(a[x] | b[x] << 3 | c[x] << 4 | d[x] << 7);
            for (int64_t x = 0; x + 1 < nx; x++) {
                const uint8_t left = corners[x], right = corners[x + 1];
                if ((left | right) == 0 || (left & right) == 0x99)
                    continue;
                /* Bits 0, 3, 4, 7 of the right neighbour are the corners 1, 2, 5, 6. */
                const int code = left | (right & 0x11) << 1 | (right & 0x88) >> 1;
                if (!vertices) {
                    histogram[code]++;
                    position[3 * code] += z;
                    position[3 * code + 1] += y;
                    position[3 * code + 2] += x;
                }
                /* A mesh vertex lies halfway between corner 7 and corner 6, 4 or 3 where just one of the two is in. */
                const int flipped = code & 0x80 ? code ^ 0xff : code;
                const int edges[3] = {flipped >> 6 & 1, flipped >> 4 & 1, flipped >> 3 & 1};
                if (vertices) {
                    static const int at[3][3] = {{2, 2, 1}, {2, 1, 0}, {1, 2, 0}};
                    for (int e = 0; e < 3; e++)
                        if (edges[e]) {
                            vertices[3 * found] = (int32_t)(2 * z + at[e][0]);
                            vertices[3 * found + 1] = (int32_t)(2 * y + at[e][1]);
                            vertices[3 * found + 2] = (int32_t)(2 * x + at[e][2]);
                            found++;
                        }
                } else
                    found += edges[0] + edges[1] + edges[2];
            }
        }
    free(corners);
    return found;
}

static void counting_sort(const int32_t *points, int axis, int64_t n, int64_t range, const int64_t *from, int64_t *to,
                          int64_t *count)
{
    memset(count, 0, (size_t)(range + 1) * sizeof *count);
    for (int64_t k = 0; k < n; k++)
        count[points[3 * k + axis] + 1]++;
    for (int64_t v = 0; v < range; v++)
        count[v + 1] += count[v];
    for (int64_t k = 0; k < n; k++)
        to[count[points[3 * from[k] + axis]]++] = from[k];
}

/* Put point `p` onto a hull under construction, off which points that it makes superfluous go, but not the first `fixed`. */
static int64_t add_to_hull(const int32_t *points, int u, int v, int64_t *hull, int64_t size, int64_t fixed, int64_t p)
{
    const int32_t *t = points + 3 * p;
    while (size > fixed) {
        const int32_t *o = points + 3 * hull[size - 2], *q = points + 3 * hull[size - 1];
        const int64_t turn = (int64_t)(q[u] - o[u]) * (t[v] - o[v]) - (int64_t)(q[v] - o[v]) * (t[u] - o[u]);
        if (turn > 0)
            break;
        size--;
    }
    hull[size] = p;
    return size + 1;
}

/* In each plane of points that share a coordinate along `axis`, keep (in `kept`, 1 a point, to be combined by the
 * caller) the corners of their convex hull, and return the largest squared distance of two of them over all planes, in
 * mm2; `scale` is half the voxel spacing, since coordinates are doubled. `range` is above every coordinate. Returns -1
 * without memory. Hulls by Andrew's monotone chain, exact in integers. */
double plane_hulls(const int32_t *points, int64_t n, int axis, int64_t range, const double *scale, uint8_t *kept)
{
    const int u = axis == 0 ? 1 : 0, v = axis == 2 ? 1 : 2;
    if (n < 1)
        return 0;
    int64_t *order = malloc((size_t)(2 * n + 1) * sizeof *order), *hull = malloc((size_t)(2 * n + 2) * sizeof *hull);
    int64_t *count = malloc((size_t)(range + 2) * sizeof *count);
    double farthest = 0;
    if (!order || !hull || !count) {
        free(order);
        free(hull);
        free(count);
        return -1;
    }
    int64_t *spare = order + n;
    for (int64_t k = 0; k < n; k++)
        order[k] = spare[k] = k;
    counting_sort(points, v, n, range, order, spare, count);
    counting_sort(points, u, n, range, spare, order, count);
    counting_sort(points, axis, n, range, order, spare, count);
    memset(kept, 0, (size_t)n);
    for (int64_t first = 0, last; first < n; first = last) {
        const int32_t plane = points[3 * spare[first] + axis];
        for (last = first; last < n && points[3 * spare[last] + axis] == plane;)
            last++;
        int64_t size = 0;
        for (int64_t s = first; s < last; s++)
            size = add_to_hull(points, u, v, hull, size, 1, spare[s]);
        const int64_t lower = size;
        for (int64_t s = last - 2; s >= first; s--)
            size = add_to_hull(points, u, v, hull, size, lower, spare[s]);
        for (int64_t i = 0; i < size; i++) {
            const int32_t *p = points + 3 * hull[i];
            kept[hull[i]] = 1;
            for (int64_t j = i + 1; j < size; j++) {
                const int32_t *q = points + 3 * hull[j];
                const double du = (p[u] - q[u]) * scale[u], dv = (p[v] - q[v]) * scale[v];
                const double distance = du * du + dv * dv;
                if (distance > farthest)
                    farthest = distance;
            }
        }
    }
    free(order);
    free(hull);
    free(count);
    return farthest;
}

/* Largest squared distance of two points (n, 3), in mm2, given by decreasing `radius`, their distance from any one
 * centre: two points are never farther apart than the sum of theirs. */
double farthest_pair(const double *points, const double *radius, int64_t n)
{
    double farthest = 0, reach = 0;
    for (int64_t i = 0; i < n; i++) {
        if (2 * radius[i] <= reach)
            break;
        const double *p = points + 3 * i;
        for (int64_t j = i + 1; j < n && radius[i] + radius[j] > reach; j++) {
            const double *q = points + 3 * j;
            const double dz = p[0] - q[0], dy = p[1] - q[1], dx = p[2] - q[2];
            const double distance = dz * dz + dy * dy + dx * dx;
            if (distance > farthest) {
                farthest = distance;
                reach = sqrt(distance) * (1 - 1e-12);
            }
        }
    }
    return farthest;
}
