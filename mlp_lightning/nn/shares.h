/* Work that threads share out as they come to it. A thread does its own part, the same every time, from the front; then
   what is left of the others' parts, from the back. So most of it stays in the cache where it was the last time, and a
   thread on a core that is slower, or busy with something else, is waited for no longer than one unit of work takes. */
#include <stdatomic.h>
#include <stdint.h>

/* What is left of a part, on a line of the cache of its own: the first unit and the one after the last. */
typedef struct {
    _Alignas(64) _Atomic uint64_t left;
} part_left_t;

/* Several works, each in as many parts as there should be threads; fewer may come. */
typedef struct {
    part_left_t *parts;
    int64_t count;
} shares_t;

static inline uint64_t units_left(uint64_t first, uint64_t end)
{
    return first << 32 | end;
}

/* Make n entries the work of a number, unit by unit. */
static inline void deal(const shares_t *s, int work, int64_t n, int64_t unit)
{
    const int64_t units = (n + unit - 1) / unit;
    for (int64_t i = 0; i < s->count; i++)
        atomic_init(&s->parts[work * s->count + i].left,
                    units_left(units * i / s->count, units * (i + 1) / s->count));
}

/* The next unit of a work for thread `me`, or -1 where none is left. */
static inline int64_t take(const shares_t *s, int work, int64_t me)
{
    for (int64_t i = 0; i < s->count; i++) {
        _Atomic uint64_t *left = &s->parts[work * s->count + (me + i) % s->count].left;
        uint64_t seen = atomic_load(left);
        while (seen >> 32 < (uint32_t)seen) {
            const uint64_t first = seen >> 32, end = (uint32_t)seen;
            const uint64_t rest = i == 0 ? units_left(first + 1, end) : units_left(first, end - 1);
            if (atomic_compare_exchange_weak(left, &seen, rest))
                return i == 0 ? first : end - 1;
        }
    }
    return -1;
}
