/* Intel AMX (tiles and bfloat16) in software, so that code made of its instructions can be tested on any x86-64 Linux.
 *
 * A CPU without AMX raises SIGILL at each of these instructions. The handler installed here decodes the instruction,
 * executes it on tiles kept in thread-local memory, and lets the program continue after it:
 *
 *     LDTILECFG  STTILECFG  TILERELEASE  TILEZERO  TILELOADD  TILELOADDT1  TILESTORED  TDPBF16PS
 *
 * as Intel's Software Developer's Manual describes them. What would fault on a CPU with AMX, and any other illegal
 * instruction, ends the process as it would without this handler, after a line on stderr that says what was wrong.
 */
#define _GNU_SOURCE /* REG_RIP and the other registers in a signal's context */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <xmmintrin.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };  /* of palette 1, the only one there is */

union tile {
    uint8_t bytes[ROWS][ROW_BYTES];
    uint16_t bf16[ROWS][ROW_BYTES / 2];
    float f32[ROWS][ROW_BYTES / 4];
};

/* The 64 bytes that LDTILECFG reads. The second is start_row, to resume an interrupted instruction: never needed here,
 * and taken for one more of the reserved bytes. So are the entries of tiles 8 to 15, which do not exist. */
struct config {
    uint8_t palette, reserved[15];
    uint16_t colsb[16];  /* bytes in a row of each tile */
    uint8_t rows[16];
};

static const struct config unconfigured;  /* palette 0, and zeros */

/* Bytes outside a tile's configured shape are always zero, as the manual wants: LDTILECFG zeroes all tiles, nothing
 * else changes a shape, and no instruction writes outside of it. */
static __thread struct config config;
static __thread union tile tiles[TILES];

static long products;

/* --- Decoding --- */

enum prefix { NP, P66, PF3, PF2 };  /* none, 66, F3, F2: in the order of VEX.pp */
enum form { REGISTER, MEMORY };     /* ModRM.mod is 3, or is not */

#define OPERATION(prefix, opcode, form) ((prefix) << 16 | (opcode) << 8 | (form))

struct instruction {
    int operation;
    int reg, rm, vvvv;     /* 0 to 15 */
    bool sib;
    uint64_t base, index;  /* of a memory operand: base register + displacement, and index register * scale */
    const uint8_t *next;
};

static uint64_t general_register(const greg_t *registers, int number)
{
    static const uint8_t order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return registers[order[number]];
}

/* False where this is not an instruction of ours. Segment and address-size prefixes, which compilers do not put before
 * AMX instructions, are not decoded. */
static bool decode(const uint8_t *code, const greg_t *registers, struct instruction *in)
{
    /* Three-byte VEX, map 0F38, W = 0, L = 0. Byte by byte: after some other instruction memory may end. */
    if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0 ||
        (code[3] != 0x49 && code[3] != 0x4B && code[3] != 0x5C))
        return false;

    /* VEX holds the fourth bits of the register numbers, and all of vvvv, inverted. */
    int r = ~code[1] >> 4 & 8, x = ~code[1] >> 3 & 8, b = ~code[1] >> 2 & 8;
    int mod = code[4] >> 6, rm = code[4] & 7;
    *in = (struct instruction){
        .operation = OPERATION(code[2] & 3, code[3], mod == 3 ? REGISTER : MEMORY),
        .reg = r | (code[4] >> 3 & 7),
        .rm = b | rm,
        .vvvv = ~code[2] >> 3 & 15,
        .sib = mod != 3 && rm == 4,
        .next = code + 5,
    };
    if (mod == 3)
        return true;

    if (in->sib) {
        uint8_t sib = *in->next++;
        int index = x | (sib >> 3 & 7);
        if (index != 4)  /* which means: none */
            in->index = general_register(registers, index) << (sib >> 6);
        rm = sib & 7;
    }
    bool no_base = mod == 0 && rm == 5;
    int32_t displacement = 0;
    if (mod == 1) {
        displacement = (int8_t)*in->next++;
    } else if (mod == 2 || no_base) {
        memcpy(&displacement, in->next, 4);
        in->next += 4;
    }
    if (!no_base)
        in->base = general_register(registers, b | rm);
    else if (!in->sib)
        in->base = (uint64_t)in->next;  /* relative to RIP */
    in->base += displacement;
    return true;
}

/* --- Execution: each returns what is wrong, or NULL --- */

static const char *ldtilecfg(const void *source)
{
    struct config new;
    memcpy(&new, source, sizeof new);
    if (new.palette > 1)
        return "LDTILECFG: no such palette";
    if (new.palette == 0)
        new = unconfigured;
    if (memcmp(new.reserved, unconfigured.reserved, sizeof new.reserved) != 0)
        return "LDTILECFG: start_row or a reserved byte is not zero";
    for (int i = 0; i < 16; i++) {
        if (new.rows[i] > (i < TILES ? ROWS : 0) || new.colsb[i] > (i < TILES ? ROW_BYTES : 0))
            return "LDTILECFG: a tile is too large or does not exist";
        if ((new.rows[i] == 0) != (new.colsb[i] == 0))
            return "LDTILECFG: a tile has only one of rows and colsb";
    }
    config = new;
    memset(tiles, 0, sizeof tiles);
    return NULL;
}

static const char *unusable(int tile)
{
    if (config.palette == 0)
        return "a tile is used before LDTILECFG in this thread";
    if (config.rows[tile] == 0)  /* as it is for 8 to 15, too */
        return "a tile is used that LDTILECFG did not configure";
    if (config.colsb[tile] % 4 != 0)
        return "a tile is used whose colsb is not a multiple of 4";  /* TILEZERO alone would let it pass */
    return NULL;
}

static void transfer(const struct instruction *in, bool load)
{
    for (int row = 0; row < config.rows[in->reg]; row++) {
        void *memory = (void *)(in->base + row * in->index), *bytes = tiles[in->reg].bytes[row];
        memcpy(load ? bytes : memory, load ? memory : bytes, config.colsb[in->reg]);
    }
}

static double widen(uint16_t bf16)
{
    uint32_t bits = (uint32_t)bf16 << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Fused multiply-add in float32. In double the product of two bfloat16 is exact; and as it has at most 16 bits, and
 * the sum 24, the double addition never rounds to a tie of float32: rounding twice is the same as once. */
static float fma32(double x, double y, float sum)
{
    return (float)(x * y + sum);
}

/* c += a @ b, where each 32-bit element of `a` and `b` is a pair of bfloat16, neighbours in the summed dimension. In
 * the manual's order of operations: the even and the odd ones are summed apart. Never inlined, so that the compiler
 * cannot move arithmetic before the change of MXCSR in the handler. */
__attribute__((noinline)) static const char *tdpbf16ps(int c, int a, int b)
{
    int rows = config.rows[c], columns = config.colsb[c] / 4, pairs = config.colsb[a] / 4;
    if (c == a || c == b || a == b)
        return "TDPBF16PS: the three tiles are not different";
    if (config.rows[a] != rows || config.colsb[b] / 4 != columns || config.rows[b] != pairs)
        return "TDPBF16PS: the shapes of the tiles do not match";

    for (int m = 0; m < rows; m++) {
        float even[ROW_BYTES / 4] = {0}, odd[ROW_BYTES / 4] = {0};
        for (int k = 0; k < pairs; k++) {
            const uint16_t *pair = &tiles[a].bf16[m][2 * k], *row = tiles[b].bf16[k];
            for (int n = 0; n < columns; n++) {
                even[n] = fma32(widen(pair[0]), widen(row[2 * n]), even[n]);
                odd[n] = fma32(widen(pair[1]), widen(row[2 * n + 1]), odd[n]);
            }
        }
        for (int n = 0; n < columns; n++)
            tiles[c].f32[m][n] += even[n] + odd[n];
    }
    __atomic_fetch_add(&products, 1, __ATOMIC_RELAXED);
    return NULL;
}

static const char *execute(const struct instruction *in)
{
    static const char malformed[] = "an AMX instruction that is malformed or not emulated";
    int reg = in->reg, rm = in->rm, vvvv = in->vvvv;  /* those an instruction does not use must be 0 */
    void *memory = (void *)(in->base + in->index);
    const char *problem;

    switch (in->operation) {
    case OPERATION(NP, 0x49, MEMORY):
        return reg || vvvv ? malformed : ldtilecfg(memory);
    case OPERATION(NP, 0x49, REGISTER):  /* TILERELEASE */
        return reg || rm || vvvv ? malformed : ldtilecfg(&unconfigured);
    case OPERATION(P66, 0x49, MEMORY):  /* STTILECFG */
        if (!(problem = reg || vvvv ? malformed : NULL))
            memcpy(memory, &config, sizeof config);
        return problem;
    case OPERATION(PF2, 0x49, REGISTER):  /* TILEZERO */
        if (!(problem = rm || vvvv ? malformed : unusable(reg)))
            memset(&tiles[reg], 0, sizeof tiles[reg]);
        return problem;
    case OPERATION(PF2, 0x4B, MEMORY):  /* TILELOADD */
    case OPERATION(P66, 0x4B, MEMORY):  /* TILELOADDT1: only a hint to the cache is different */
    case OPERATION(PF3, 0x4B, MEMORY):  /* TILESTORED */
        if (!(problem = !in->sib || vvvv ? malformed : unusable(reg)))
            transfer(in, in->operation != OPERATION(PF3, 0x4B, MEMORY));
        return problem;
    case OPERATION(PF3, 0x5C, REGISTER):
        if ((problem = unusable(reg)) || (problem = unusable(rm)) || (problem = unusable(vvvv)))
            return problem;
        return tdpbf16ps(reg, rm, vvvv);
    }
    return malformed;
}

/* --- The signal --- */

static struct sigaction previous;

/* The kernel saves all registers before it calls a handler and restores them afterwards, so vector registers and MXCSR
 * are free to use. So is malloc, should a thread's first touch of `tiles` need it: the signal interrupts nothing but an
 * illegal instruction. */
static void on_illegal_instruction(int number, siginfo_t *info, void *context)
{
    bool from_cpu = info->si_code > 0;  /* rather than from kill() or raise() */
    if (from_cpu) {
        greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
        const char *problem = "an illegal instruction, and none of those emulated";
        struct instruction in;
        if (decode((const uint8_t *)registers[REG_RIP], registers, &in)) {
            /* Whatever the program's own MXCSR is, TDPBF16PS takes denormal numbers for zero, flushes denormal results,
             * rounds to nearest even and traps nothing. */
            _mm_setcsr(0x9FC0);
            problem = execute(&in);
        }
        if (!problem) {
            registers[REG_RIP] = (greg_t)in.next;
            return;
        }
        dprintf(2, "AMX emulator: %s (at %#llx)\n", problem, registers[REG_RIP]);
    }
    /* Now it is up to the handler that was here before, by default the kernel's, which ends the process: the CPU comes
     * back to the instruction after this return; a signal that was sent is sent again. If that handler hands the signal
     * back to this one, as Python's faulthandler can, nothing but the default is left. */
    sigaction(number, &previous, NULL);
    previous = (struct sigaction){.sa_handler = SIG_DFL};
    if (!from_cpu)
        raise(number);
}

/* From now on handle SIGILL, in all threads of the process. Returns 0, or -1 with errno. May be called again, to take
 * the signal back from a handler that someone installed in between. */
int amx_emulator_install(void)
{
    struct sigaction action = {.sa_sigaction = on_illegal_instruction, .sa_flags = SA_SIGINFO | SA_ONSTACK}, replaced;
    if (sigaction(SIGILL, &action, &replaced) != 0)
        return -1;
    if (replaced.sa_sigaction != on_illegal_instruction)
        previous = replaced;
    return 0;
}

/* How many TDPBF16PS this process has executed here: by this a test can show that they were emulated. */
long amx_emulator_count(void)
{
    return __atomic_load_n(&products, __ATOMIC_RELAXED);
}
