"""The rule by which kernels cut partitions: fixed sizes, never autotuned, so that all ranks and all runs sum alike.

A thread keeps a few 16-byte loads in flight per partition, an SM about 64 KiB: more than a memory latency's worth of
bandwidth on A100 and H100 (3.35 TB/s × 0.7 µs / 132 SMs = 18 KiB).
"""

# threads of a program: 8 warps
NUM_WARPS = 8

# elements a program handles at a time: 8 per thread in reductions, which also hold accumulators, 16 elsewhere
REDUCTION_TILE = 2_048
ELEMENTWISE_TILE = 4_096

# elements of one partial sum: 8 tiles. Short, because fp32 rounding grows with the number of sequential additions:
# 8 per accumulator, at most 8 · 2⁻²⁴ = 4.8e-7 of ‖u‖‖v‖, and 1.5e-7 where all elements are equal. What follows is fp64
CHUNK = 8 * REDUCTION_TILE

# products and sums round where the kernels say so (`tl.fma`), not where a compiler's version fuses them
FP_FUSION = False

# where a chunk's ‖x‖² is not above this, squares that underflow fp32 may matter: its sums again in fp64, one element
# per thread at a time, so that the rare case takes no registers from the common one
SMALL = 1e-25
REDUCTION_TILE_AGAIN = 32 * NUM_WARPS

# programs of a reduction, each taking chunks p, p + G, p + 2G, …; partial sums are stored per chunk, so the result
# does not depend on it
PROGRAMS_PER_SM = 4

# registers a thread may take: 4 programs fit an SM's 65,536, of the first-order sums, which hold twice as much, 2
REGISTERS, FIRST_ORDER_REGISTERS = 64, 128

# partial sums added up at a time: many rows with a few each, a row for each parameter, then one of all parameters
TOTAL_TILE, TOTAL_WARPS = 4_096, 16
ROW_TILE, ROW_WARPS = 128, 4

# a chunk of a table starts at a multiple of this many elements (16 bytes, also in bf16) unless its parameter does not
ALIGNMENT = 16

# elements at a time in the CPU forms: large enough to hide the calls, small enough that one such scratch, shared out
# over two threads, stays in the caches that cores have to themselves (what all cores share, others may be filling)
CPU_CHUNK = 262_144

# the CPU's sums are of rows, whose products torch adds up in fp32; the rows' sums are added up in fp64, and the bits
# depend on no number of threads. Where all elements are equal, 1.8e-7 off was the most that was seen, rows of 512 by
# 4e-7. For any elements the worst is that 14 roundings go one way, a product's own and 13 in its row: 14 · 2⁻²⁴ =
# 8.4e-7.
# First-order sums have two more, d's in either factor, so their rows are half as long, with 11
CPU_ROW, FIRST_ORDER_CPU_ROW = 128, 64

# 0 and λ_t within these limits are applied in fp32, others in fp64: λ_t may leave fp32's range while λ_t ∇g does not
SMALLEST, LARGEST = 2.0**-100, 2.0**126
