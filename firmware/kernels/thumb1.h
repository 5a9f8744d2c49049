/* The frame of the inner loops of a Cortex-M0+: four sums in r8 to r11, where only additions reach. */
#ifndef BF_THUMB1_H
#define BF_THUMB1_H

/* Enter with r3 = sums: four registers begin with sums[0]. r0 to r2 stay; on the stack lie four words, then r3. */
#define BF_FOUR_SUMS                \
    ".syntax unified\n"             \
    "push {r3-r7, lr}\n"            \
    "mov r4, r8\n"                  \
    "mov r5, r9\n"                  \
    "mov r6, r10\n"                 \
    "mov r7, r11\n"                 \
    "push {r4-r7}\n"                \
    "ldr r3, [r3]\n"                \
    "mov r8, r3\n"                  \
    "mov r9, r3\n"                  \
    "mov r10, r3\n"                 \
    "mov r11, r3\n"
/* Store the sums and return. */
#define BF_RETURN_SUMS              \
    "pop {r4-r7}\n"                 \
    "ldr r0, [sp]\n"                \
    "mov r1, r8\n"                  \
    "mov r2, r9\n"                  \
    "mov r3, r10\n"                 \
    "str r1, [r0]\n"                \
    "str r2, [r0, #4]\n"            \
    "str r3, [r0, #8]\n"            \
    "mov r1, r11\n"                 \
    "str r1, [r0, #12]\n"           \
    "mov r8, r4\n"                  \
    "mov r9, r5\n"                  \
    "mov r10, r6\n"                 \
    "mov r11, r7\n"                 \
    "pop {r3-r7, pc}\n"
#endif
