"""The Numba kernels that build a bounding-volume hierarchy; `bvh` describes its layout."""

import numba
import numpy as np

NUM_BINS = 16
MOST_IN_LEAF = 2
DEEPEST_SAH = 40  # below it ranges are halved, which bounds the depth by 40 + 31

kernel = numba.njit(cache=True, nogil=True, error_model="numpy")


@kernel
def half_area(low, high):
    """Return half the surface of a box."""
    x, y, z = high[0] - low[0], high[1] - low[1], high[2] - low[2]
    return x * y + y * z + z * x


@kernel
def enclose(low, high, order, begin, end, box_low, box_high):
    """Write the box around the boxes at begin .. end of `order`."""
    box_low[:] = np.inf
    box_high[:] = -np.inf
    for place in range(begin, end):
        i = order[place]
        for axis in range(3):
            box_low[axis] = min(box_low[axis], low[i, axis])
            box_high[axis] = max(box_high[axis], high[i, axis])


@kernel
def bin_of(centre, start, scale):
    """Return the bin of a centre along an axis."""
    return min(NUM_BINS - 1, max(0, int((centre - start) * scale)))


@kernel
def best_split(low, high, order, begin, end):
    """Return the cheapest cut: its cost, axis, bin, and the axis' start and scale; axis -1: none."""
    start, stop = np.full(3, np.inf), np.full(3, -np.inf)
    for place in range(begin, end):
        for axis in range(3):
            centre = low[order[place], axis] + high[order[place], axis]
            start[axis] = min(start[axis], centre)
            stop[axis] = max(stop[axis], centre)
    cost, chosen, cut, first, factor = np.inf, -1, 0, 0.0, 0.0
    bin_low, bin_high = np.empty((NUM_BINS, 3)), np.empty((NUM_BINS, 3))
    counts = np.empty(NUM_BINS, np.int64)
    right_cost = np.empty(NUM_BINS)
    box_low, box_high = np.empty(3), np.empty(3)
    for axis in range(3):
        if not stop[axis] > start[axis]:
            continue
        scale = NUM_BINS / (stop[axis] - start[axis])
        bin_low[:], bin_high[:], counts[:] = np.inf, -np.inf, 0
        for place in range(begin, end):
            i = order[place]
            b = bin_of(low[i, axis] + high[i, axis], start[axis], scale)
            counts[b] += 1
            for k in range(3):
                bin_low[b, k] = min(bin_low[b, k], low[i, k])
                bin_high[b, k] = max(bin_high[b, k], high[i, k])
        box_low[:], box_high[:], total = np.inf, -np.inf, 0
        for b in range(NUM_BINS - 1, 0, -1):
            box_low[:] = np.minimum(box_low, bin_low[b])
            box_high[:] = np.maximum(box_high, bin_high[b])
            total += counts[b]
            right_cost[b] = total * half_area(box_low, box_high) if total else np.inf
        box_low[:], box_high[:], total = np.inf, -np.inf, 0
        for b in range(NUM_BINS - 1):
            box_low[:] = np.minimum(box_low, bin_low[b])
            box_high[:] = np.maximum(box_high, bin_high[b])
            total += counts[b]
            if total and right_cost[b + 1] < np.inf:
                both = total * half_area(box_low, box_high) + right_cost[b + 1]
                if both < cost:
                    cost, chosen, cut, first, factor = both, axis, b, start[axis], scale
    return cost, chosen, cut, first, factor


@kernel
def split(low, high, order, begin, end, depth):
    """Sort begin .. end, more than a leaf holds, into two parts; return where the second begins."""
    _, axis, cut, start, scale = best_split(low, high, order, begin, end)
    if axis < 0 or depth >= DEEPEST_SAH:
        return begin + (end - begin) // 2
    left, right = begin, end - 1
    while left <= right:
        i = order[left]
        if bin_of(low[i, axis] + high[i, axis], start, scale) <= cut:
            left += 1
        else:
            order[left], order[right] = order[right], order[left]
            right -= 1
    return left


@kernel
def store_box(box_low, box_high, target):
    """Write a box as float32, rounded outward."""
    for axis in range(3):
        target[axis] = np.nextafter(np.float32(box_low[axis]), np.float32(-np.inf))
        target[3 + axis] = np.nextafter(np.float32(box_high[axis]), np.float32(np.inf))


@kernel
def build_nodes(low, high, bounds, children, order):
    """Fill the nodes and sort `order`; return the number of nodes."""
    stack = np.empty((128, 4), np.int64)  # begin, end, depth, the node
    box_low, box_high = np.empty(3), np.empty(3)
    begins, ends = np.empty(2, np.int64), np.empty(2, np.int64)
    stack[0] = 0, order.shape[0], 0, 0
    size, num_nodes = 1, 1
    while size:
        size -= 1
        begin, end, depth, node = stack[size]
        middle = end
        if end - begin > MOST_IN_LEAF:
            middle = split(low, high, order, begin, end, depth)
        begins[0], ends[0], begins[1], ends[1] = begin, middle, middle, end
        for side in range(2):
            first, last = begins[side], ends[side]
            if first == last:
                continue
            enclose(low, high, order, first, last, box_low, box_high)
            store_box(box_low, box_high, bounds[node, 6 * side : 6 * side + 6])
            if last - first <= MOST_IN_LEAF:
                children[node, side] = ~(first << 3 | last - first)
            else:
                children[node, side] = num_nodes
                stack[size] = first, last, depth + 1, num_nodes
                size += 1
                num_nodes += 1
    return num_nodes
