/* Work that threads divide as they come to it. A thread does its own part, the same every time, from the front; then
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

/* The next unit of part i of a work, from its front or from its back, or -1 where none is left. */
static inline int64_t take_of_part(const shares_t *s, int work, int64_t i, int from_back)
{
    _Atomic uint64_t *left = &s->parts[work * s->count + i].left;
    uint64_t seen = atomic_load(left);
    while (seen >> 32 < (uint32_t)seen) {
        const uint64_t first = seen >> 32, end = (uint32_t)seen;
        const uint64_t rest = from_back ? units_left(first, end - 1) : units_left(first + 1, end);
        if (atomic_compare_exchange_weak(left, &seen, rest))
            return from_back ? end - 1 : first;
    }
    return -1;
}

/* The next unit of a work for thread `me`: of its own part, then of the others', or -1 where none is left. */
static inline int64_t take(const shares_t *s, int work, int64_t me)
{
    int64_t unit = take_of_part(s, work, me, 0);
    for (int64_t i = 1; unit < 0 && i < s->count; i++)
        unit = take_of_part(s, work, (me + i) % s->count, 1);
    return unit;
}
