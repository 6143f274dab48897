"""A library that plays a FIDO token for OpenSSH's programs (PROTOCOL.u2f; sk-api.h says what they
call). Its key handles are the keys themselves, which no real token would give away.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.needs import need_tools

SOURCE = r"""
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Of libcrypto, whose headers need not be there. */
void *EVP_PKEY_new_raw_private_key(int type, void *engine, const unsigned char *key, size_t size);
int EVP_PKEY_get_raw_public_key(void *key, unsigned char *out, size_t *size);
void EVP_PKEY_free(void *key);
void *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(void *context);
int EVP_DigestSignInit(void *context, void *, void *, void *, void *key);
int EVP_DigestSign(void *context, unsigned char *out, size_t *size, const unsigned char *, size_t);
unsigned char *SHA256(const unsigned char *data, size_t size, unsigned char *out);
int RAND_bytes(unsigned char *out, int size);

enum { ED25519_OF_LIBCRYPTO = 1087, ED25519_OF_SSH = 1, SEED = 32, UNSUPPORTED = -2 };

struct enrolled {
    uint8_t flags;
    uint8_t *public_key; size_t public_key_size;
    uint8_t *handle; size_t handle_size;
    uint8_t *signature; size_t signature_size;
    uint8_t *certificate; size_t certificate_size;
    uint8_t *authdata; size_t authdata_size;
};

struct signed_data {
    uint8_t flags;
    uint32_t counter;
    uint8_t *r; size_t r_size;
    uint8_t *s; size_t s_size;
};

uint32_t sk_api_version(void) { return API_VERSION; }

int sk_enroll(uint32_t kind, const uint8_t *challenge, size_t challenge_size,
              const char *application, uint8_t flags, const char *pin, void **options,
              struct enrolled **answer)
{
    struct enrolled *made = calloc(1, sizeof *made);
    if (kind != ED25519_OF_SSH)
        return UNSUPPORTED;
    made->flags = flags;
    made->handle = malloc(made->handle_size = SEED);
    RAND_bytes(made->handle, SEED);
    made->public_key = malloc(made->public_key_size = 32);
    void *key = EVP_PKEY_new_raw_private_key(ED25519_OF_LIBCRYPTO, NULL, made->handle, SEED);
    EVP_PKEY_get_raw_public_key(key, made->public_key, &made->public_key_size);
    EVP_PKEY_free(key);
    *answer = made;
    return 0;
}

int sk_sign(uint32_t kind, const uint8_t *data, size_t size, const char *application,
            const uint8_t *handle, size_t handle_size, uint8_t flags, const char *pin,
            void **options, struct signed_data **answer)
{
    struct signed_data *made = calloc(1, sizeof *made);
    unsigned char told[32 + 1 + 4 + 32];
    if (kind != ED25519_OF_SSH || handle_size != SEED)
        return UNSUPPORTED;
    made->flags = flags & 5;  /* touched, verified */
    made->counter = 7;
    SHA256((const unsigned char *) application, strlen(application), told);
    told[32] = made->flags;
    memcpy(told + 33, "\0\0\0\7", 4);
    SHA256(data, size, told + 37);
    made->r = malloc(made->r_size = 64);
    void *key = EVP_PKEY_new_raw_private_key(ED25519_OF_LIBCRYPTO, NULL, handle, SEED);
    void *context = EVP_MD_CTX_new();
    EVP_DigestSignInit(context, NULL, NULL, NULL, key);
    EVP_DigestSign(context, made->r, &made->r_size, told, sizeof told);
    EVP_MD_CTX_free(context);
    EVP_PKEY_free(key);
    *answer = made;
    return 0;
}

int sk_load_resident_keys(const char *pin, void **options, void ***keys, size_t *count)
{
    return UNSUPPORTED;
}
"""

API_VERSION = "0x000a0000"
"""Of OpenSSH from 8.9 on."""


def build_token(directory: Path) -> Path:
    """The library's file. The test is skipped where there is no compiler."""
    need_tools("gcc")
    source, library = directory / "token.c", directory / "token.so"
    source.write_text(SOURCE)
    words = ["gcc", "-shared", "-fPIC", "-O1", f"-DAPI_VERSION={API_VERSION}"]
    words += ["-o", str(library), str(source), "-l:libcrypto.so.3"]
    subprocess.run(words, check=True, timeout=60)
    return library


def make_token_key(library: Path, path: Path, *options: str, passphrase: str = "") -> Path:
    """The file of a key on that token; its public half is beside it."""
    words = ["ssh-keygen", "-q", "-t", "ed25519-sk", "-w", str(library), "-N", passphrase]
    words += [word for option in options for word in ("-O", option)]
    subprocess.run([*words, "-f", str(path)], check=True, stdin=subprocess.DEVNULL, timeout=60)
    return path
