/* A PKCS#11 module between a test and SoftHSM2, which shows a token that is in trouble. The environment says which:
 *
 *   SHIM_MODULE        the real module
 *   SHIM_LOGINS        a file that gets one byte for each C_Login
 *   SHIM_FLAGS         hexadecimal, added to the token's flags; bits of SHIM_FLAGS_OFF are taken away
 *   SHIM_SESSIONS_MAX  the token's limit on sessions
 *   SHIM_NO_GCM        the token does not know CKM_AES_GCM
 *   SHIM_NO_AAD        AES-GCM ignores its AAD
 *   SHIM_SAME_RANDOM   the random generator gives the same bytes for ever
 *   SHIM_SLOW_MS       how long C_Encrypt takes
 *
 * Types and places in the function list are those of PKCS#11 v2.40. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef ulong_t (*function)(void);

/* CK_FUNCTION_LIST: a version of two bytes, then 68 functions. */
struct list { unsigned char version[2]; function f[68]; };
enum { TOKEN_INFO = 6, MECHANISMS = 7, LOGIN = 18, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT_INIT = 33, RANDOM = 64 };

struct token_info {
    unsigned char label[32], manufacturer[32], model[16], serial[16];
    ulong_t flags, sessions_max, sessions, rw_max, rw, pin_max, pin_min, memory[4];
    unsigned char hardware[2], firmware[2], time[16];
};
struct mechanism { ulong_t type; void *parameter; ulong_t length; };
struct gcm { void *iv; ulong_t iv_length, iv_bits; void *aad; ulong_t aad_length, tag_bits; };

#define AES_GCM 0x1087UL

static struct list *real, ours;

static ulong_t number(const char *name, int base) {
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, base) : 0;
}

static ulong_t token_info(ulong_t slot, struct token_info *info) {
    ulong_t rv = ((ulong_t (*)(ulong_t, struct token_info *))real->f[TOKEN_INFO])(slot, info);
    if (rv != 0) return rv;
    info->flags = (info->flags & ~number("SHIM_FLAGS_OFF", 16)) | number("SHIM_FLAGS", 16);
    if (getenv("SHIM_SESSIONS_MAX")) info->sessions_max = number("SHIM_SESSIONS_MAX", 10);
    return rv;
}

static ulong_t mechanisms(ulong_t slot, ulong_t *list, ulong_t *count) {
    ulong_t rv = ((ulong_t (*)(ulong_t, ulong_t *, ulong_t *))real->f[MECHANISMS])(slot, list, count);
    if (rv == 0 && list && getenv("SHIM_NO_GCM"))
        for (ulong_t i = 0; i < *count; i++)
            if (list[i] == AES_GCM) list[i] = 0x1082; /* CKM_AES_CBC */
    return rv;
}

static ulong_t login(ulong_t session, ulong_t user, unsigned char *pin, ulong_t length) {
    const char *path = getenv("SHIM_LOGINS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) { fputc('x', file); fclose(file); }
    return ((ulong_t (*)(ulong_t, ulong_t, unsigned char *, ulong_t))real->f[LOGIN])(session, user, pin, length);
}

static ulong_t cipher_init(int place, ulong_t session, struct mechanism *how, ulong_t key) {
    ulong_t (*call)(ulong_t, struct mechanism *, ulong_t) = (void *)real->f[place];
    if (how->type != AES_GCM || !getenv("SHIM_NO_AAD")) return call(session, how, key);
    struct gcm without = *(struct gcm *)how->parameter;
    without.aad_length = 0;
    struct mechanism changed = { how->type, &without, how->length };
    return call(session, &changed, key);
}

static ulong_t encrypt_init(ulong_t s, struct mechanism *m, ulong_t k) { return cipher_init(ENCRYPT_INIT, s, m, k); }
static ulong_t decrypt_init(ulong_t s, struct mechanism *m, ulong_t k) { return cipher_init(DECRYPT_INIT, s, m, k); }

static ulong_t encrypt(ulong_t s, void *in, ulong_t length, void *out, ulong_t *out_length) {
    if (out) usleep(1000 * number("SHIM_SLOW_MS", 10));
    return ((ulong_t (*)(ulong_t, void *, ulong_t, void *, ulong_t *))real->f[ENCRYPT])(s, in, length, out, out_length);
}

static ulong_t random_bytes(ulong_t session, unsigned char *out, ulong_t length) {
    if (getenv("SHIM_SAME_RANDOM")) { memset(out, 7, length); return 0; }
    return ((ulong_t (*)(ulong_t, unsigned char *, ulong_t))real->f[RANDOM])(session, out, length);
}

ulong_t C_GetFunctionList(struct list **out) {
    void *library = dlopen(getenv("SHIM_MODULE"), RTLD_NOW);
    ulong_t (*get)(struct list **) = library ? (ulong_t (*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
    if (!get || get(&real) != 0) return 5; /* CKR_GENERAL_ERROR */
    ours = *real;
    ours.f[TOKEN_INFO] = (function)token_info;
    ours.f[MECHANISMS] = (function)mechanisms;
    ours.f[LOGIN] = (function)login;
    ours.f[ENCRYPT_INIT] = (function)encrypt_init;
    ours.f[ENCRYPT] = (function)encrypt;
    ours.f[DECRYPT_INIT] = (function)decrypt_init;
    ours.f[RANDOM] = (function)random_bytes;
    *out = &ours;
    return 0;
}
