"""The order in which a trainer shows the pictures of an epoch, as include/transferlib/core/random.hpp draws it."""
WORD = (1 << 32) - 1


def philox(key, low, high):
    """Philox 4x32-10's four 32-bit words for a 64-bit key and a 128-bit counter (Salmon et al., SC 2011)."""
    c = [low & WORD, low >> 32, high & WORD, high >> 32]
    k0, k1 = key & WORD, key >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & WORD, (p0 >> 32) ^ c[3] ^ k1, p0 & WORD]
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c


def shuffled(n, seed, epoch, purpose=1):
    """0 … n - 1 by Fisher and Yates; epochs count from 1."""
    mixed = philox(seed, epoch, purpose)
    key, counter, words = (mixed[1] << 32) | mixed[0], 0, []

    def bits():
        nonlocal counter
        if not words:
            words.extend(philox(key, counter, purpose))
            counter += 1
        return words.pop(0)

    order = list(range(n))
    for i in range(n - 1, 0, -1):
        limit = (1 << 64) - 1 - ((1 << 64) - 1) % (i + 1)
        while (draw := (bits() << 32) | bits()) >= limit:
            pass
        j = draw % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order
