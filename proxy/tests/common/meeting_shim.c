/* A PKCS#11 module between a test and SoftHSM2 that is initialised only while another one is, too: they meet at both ends
 * of the pipe MEETING. The real module is this one's path with ".real" after it, a copy for each, for they must not share
 * its state; the one with "first" in its path reads, the other writes.
 *
 * Places in the function list are those of PKCS#11 v2.40. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
struct list { unsigned char version[2]; void *f[68]; };

static struct list *real, ours;
static int reads;

static ulong_t initialize(void *arguments) {
    int pipe = open(getenv("MEETING"), reads ? O_RDONLY : O_WRONLY);
    if (pipe < 0) return 0x5; /* CKR_GENERAL_ERROR */
    close(pipe);
    return ((ulong_t (*)(void *))real->f[0])(arguments);
}

ulong_t C_GetFunctionList(struct list **list) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)C_GetFunctionList, &self)) return 0x5;
    reads = strstr(self.dli_fname, "first") != NULL;
    snprintf(path, sizeof path, "%s.real", self.dli_fname);
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!module) return 0x5;
    ulong_t rv = ((ulong_t (*)(struct list **))dlsym(module, "C_GetFunctionList"))(&real);
    if (rv != 0) return rv;
    ours = *real;
    ours.f[0] = (void *)initialize;
    *list = &ours;
    return 0;
}
