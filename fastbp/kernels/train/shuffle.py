"""A random order of rows: the one that NumPy's Generator.shuffle makes of the same random numbers, in less time.

    for i = n - 1 … 1:  swap rows i and j, with a random j of 0 … i

(Durstenfeld, Algorithm 235: Random permutation, Communications of the ACM 7, 1964.) NumPy draws a j as it draws all bounded
numbers of a shuffle: it takes as many random bits as i has, and draws again if they are more than i (random_interval in
numpy/random/src/distributions/distributions.c). The CPU foresees a third of these outcomes wrongly. So here many numbers are
drawn before any rows are swapped, each into a place that the next one overwrites if it was too large.
"""
from ..._compile import link
from ..._compile.compiler import kernel
from ..schedule.atomic import load
from ..schedule.records import put_word

# How many numbers are drawn before rows are swapped. They stay in L1, and with fewer the loops are too short.
DRAWN = 512

# The most rows: for more, NumPy takes other random bits.
MOST_ROWS = 1 << 32

# The bits that NumPy's C function next_uint32 returns.
_BITS = (1 << 32) - 1


@kernel
def shuffle(rows, count, room, draw, stream):
    """Shuffle the `count` 64-bit words at the address `rows`.

    room: the address of room for DRAWN words. draw, stream: the addresses of a bit generator's next_uint32 and of its state.
    """
    last, mask = count - 1, _BITS
    while last > 0:
        while last <= mask >> 1:
            mask >>= 1
        wanted, drawn = min(DRAWN, last - (mask >> 1)), 0       # with the same mask
        while drawn < wanted:
            number = link.call(draw, (stream,)) & mask
            put_word(room + 8 * drawn, number)
            drawn += int(number <= last - drawn)
        for i in range(wanted):
            one, other = rows + 8 * (last - i), rows + 8 * load(room + 8 * i)
            row = load(one)
            put_word(one, load(other))
            put_word(other, row)
        last -= wanted
