/* The launcher of the binary: unpacks its payload once, then runs the Python in it with exec.
 *
 * The payload is a tar of Python, its library and the collector, compressed with zstd. The folder it is unpacked into
 * has the payload's hash in its name:
 *
 *     BASE/collector-0123456789abcdef/           renamed to this name when everything is unpacked
 *     BASE/collector-0123456789abcdef.XXXXXX/    being unpacked or deleted
 *
 * Unpacking does not sync, which would take seconds on a busy disk. Instead, each start compares the names and sizes of
 * all files, in 2 ms, and unpacks again if one differs. This finds the short files that a power cut leaves, because
 * ext4, XFS and btrfs write data before the size. It also finds the files that a cleaner of /tmp has deleted.
 *
 * A process that unpacks or runs holds a shared lock on the folder. The lock survives exec and ends with the process.
 * If an exclusive lock succeeds, no process uses the folder. After unpacking, the launcher deletes such folders of
 * other versions, and unfinished ones. It never waits for a lock or for another process that unpacks: both unpack, and
 * the second to finish deletes its copy.
 *
 * Code runs only if nobody but this user and root can write to its folder and the folder above.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

/* Defined by the build: FOLDER, which is collector- and 16 hexadecimal digits; PAYLOAD, the path of the compressed
 * tar; and CONTENTS, the path of a list of its files. */
static const struct { const char *name; off_t size; } FILES[] = {
#include CONTENTS
};
#define PREFIX "collector-"
#define DIGITS 16
#define ADVICE "set COLLECTOR_UNPACK_DIR to another folder"

__asm__(".section .rodata\n.balign 16\npayload: .incbin \"" PAYLOAD "\"\npayload_end:\n.previous\n");
extern const char payload[] __attribute__((visibility("hidden")));
extern const char payload_end[] __attribute__((visibility("hidden")));

static char unfinished[PATH_MAX]; /* the folder to delete on failure */

static int remove_entry(const char *path, const struct stat *status, int flag, struct FTW *walk)
{
    (void)status, (void)flag, (void)walk;
    remove(path);
    return 0;
}

static void remove_tree(const char *path)
{
    nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("collector: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    if (*unfinished)
        remove_tree(unfinished);
    exit(1);
}

static void join(char *path, const char *folder, const char *name)
{
    if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
        fail("%s/%s: %s", folder, name, strerror(ENAMETOOLONG));
}

static int ours(const struct stat *status)
{
    return status->st_uid == geteuid() || status->st_uid == 0;
}

/* Open a folder and take its shared lock; -1 if it does not exist or is being deleted. */
static int hold(const char *path)
{
    struct stat status, now;
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (folder >= 0 && folder < 3) { /* without /dev/null, a closed standard stream must not become the lock */
        int above = fcntl(folder, F_DUPFD, 3);
        close(folder);
        folder = above;
    }
    if (folder < 0 && errno == ENOENT)
        return -1;
    if (folder < 0 || fstat(folder, &status))
        fail("cannot use %s: %s; " ADVICE, path, strerror(errno));
    if (!ours(&status) || status.st_mode & (S_IWGRP | S_IWOTH))
        fail("cannot use %s: others can write to it; remove it, or " ADVICE, path);
    if (!flock(folder, LOCK_SH | LOCK_NB) && !stat(path, &now) && now.st_ino == status.st_ino)
        return folder;
    close(folder);
    return -1;
}

static int is_complete(int folder)
{
    struct stat status;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        if (fstatat(folder, FILES[i].name, &status, AT_SYMLINK_NOFOLLOW) || status.st_size != FILES[i].size)
            return 0;
    return 1;
}

/* Delete a folder. It is renamed first, so that a partly deleted one never has a complete one's name. */
static void discard(const char *path)
{
    char gone[PATH_MAX + sizeof ".gone"];
    snprintf(gone, sizeof gone, "%s.gone", path);
    remove_tree(gone);
    if (!rename(path, gone))
        remove_tree(gone);
}

/* Decompress the next `size` bytes of the tar. */
static void inflate_next(ZSTD_DStream *stream, ZSTD_inBuffer *in, void *to, size_t size)
{
    ZSTD_outBuffer out = {to, size, 0};
    while (out.pos < size) {
        size_t left = ZSTD_decompressStream(stream, &out, in);
        if (ZSTD_isError(left) || (out.pos < size && (left == 0 || in->pos == in->size)))
            fail("this file is damaged: %s", ZSTD_isError(left) ? ZSTD_getErrorName(left) : "it ends too early");
    }
}

static void write_file(const char *path, size_t size, mode_t mode, ZSTD_DStream *stream, ZSTD_inBuffer *in)
{
    static char chunk[1 << 18];
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL, mode);
    if (file < 0)
        fail("cannot unpack to %s: %s; " ADVICE, path, strerror(errno));
    while (size) {
        size_t want = size < sizeof chunk ? size : sizeof chunk;
        inflate_next(stream, in, chunk, want);
        for (size_t done = 0; done < want;) {
            ssize_t wrote = write(file, chunk + done, want - done);
            if (wrote < 0 && errno != EINTR)
                fail("cannot unpack to %s: %s; " ADVICE, path, strerror(errno));
            done += wrote < 0 ? 0 : wrote;
        }
        size -= want;
    }
    if (close(file))
        fail("cannot unpack to %s: %s; " ADVICE, path, strerror(errno));
}

/* Unpack into an existing folder. Handles only tars as the build writes them: files, each after its folder. */
static void extract(const char *folder)
{
    struct { char name[100], mode[8], ids[16], size[12], time[12], sum[8], type, rest[355]; } header;
    char padding[512], path[PATH_MAX];
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer in = {payload, payload_end - payload, 0};
    _Static_assert(sizeof header == 512, "a block of tar");
    for (;;) {
        inflate_next(stream, &in, &header, sizeof header);
        if (!*header.name)
            break;
        join(path, folder, header.name);
        if (header.type == '5') {
            if (mkdir(path, 0755))
                fail("cannot unpack to %s: %s; " ADVICE, path, strerror(errno));
            continue;
        }
        size_t size = strtoul(header.size, NULL, 8);
        write_file(path, size, strtoul(header.mode, NULL, 8), stream, &in);
        inflate_next(stream, &in, padding, -size % 512);
    }
    /* Read to the end of the frame, where zstd verifies its checksum. */
    for (size_t left = 1; left;) {
        ZSTD_outBuffer out = {padding, sizeof padding, 0};
        left = ZSTD_decompressStream(stream, &out, &in);
        if (ZSTD_isError(left) || (left && !out.pos))
            fail("this file is damaged: %s", ZSTD_isError(left) ? ZSTD_getErrorName(left) : "it ends too early");
    }
    ZSTD_freeDStream(stream);
}

/* Delete unfinished folders that no process uses, and unused other versions if asked. Ignore errors. */
static void sweep(const char *base, int versions_too)
{
    DIR *entries = opendir(base);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        const char *digits = entry->d_name + strlen(PREFIX);
        char path[PATH_MAX];
        struct stat status;
        if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) || strspn(digits, "0123456789abcdef") != DIGITS ||
            (digits[DIGITS] && digits[DIGITS] != '.') || !strcmp(entry->d_name, FOLDER))
            continue;
        join(path, base, entry->d_name);
        int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
        if (folder < 0)
            continue;
        if (!fstat(folder, &status) && status.st_uid == geteuid() && !flock(folder, LOCK_EX | LOCK_NB)) {
            if (digits[DIGITS])
                remove_tree(path);
            else if (versions_too)
                discard(path);
        }
        close(folder);
    }
    if (entries)
        closedir(entries);
}

/* Unpack, and return the locked folder. Returns -1 on failure; errno is EEXIST if another process was faster. */
static int unpack(const char *base, const char *path)
{
    char temporary[PATH_MAX];
    int folder;
    sweep(base, 0); /* or launchers that are killed while unpacking would fill the disk */
    do { /* again, if another process's sweep deleted it before it was locked */
        join(temporary, base, FOLDER ".XXXXXX");
        if (!mkdtemp(temporary))
            return -1;
    } while ((folder = hold(temporary)) < 0);
    strcpy(unfinished, temporary);
    extract(temporary);
    if (fchmod(folder, 0755))
        fail("cannot unpack to %s: %s; " ADVICE, temporary, strerror(errno));
    *unfinished = 0;
    if (rename(temporary, path)) {
        remove_tree(temporary);
        close(folder);
        errno = EEXIST;
        return -1;
    }
    /* Not before unpacking: for 5 s after a deletion ext4 takes 0.5 ms to create a file, and there are a thousand. */
    sweep(base, 1);
    return folder;
}

static int make_folders(const char *path)
{
    char part[PATH_MAX];
    for (const char *end = path + 1; *path; end++)
        if (*end == '/' || !*end) {
            snprintf(part, sizeof part, "%.*s", (int)(end - path), path);
            if (mkdir(part, 0755) && errno != EEXIST)
                return -1;
            if (!*end)
                break;
        }
    return 0;
}

/* Unpack below `place`. Returns NULL and the unpacked folder in `path`, or the reason why the place cannot be used. */
static const char *unpacked(const char *place, char *path)
{
    char base[PATH_MAX];
    struct stat status;
    if (make_folders(place) || !realpath(place, base) || stat(base, &status))
        return strerror(errno);
    if (!S_ISDIR(status.st_mode))
        return strerror(ENOTDIR);
    /* A user who can rename our folder can replace it. The sticky bit, as on /tmp, prevents that. */
    if (!ours(&status) || (status.st_mode & (S_IWGRP | S_IWOTH) && !(status.st_mode & S_ISVTX)))
        return "others can write to it";
    join(path, base, FOLDER);
    for (int attempt = 0; attempt < 5; attempt++) {
        int folder = hold(path);
        if (folder >= 0 && is_complete(folder))
            return NULL;
        if (folder >= 0) {
            if (flock(folder, LOCK_EX | LOCK_NB))
                return "the unpacked files there are incomplete, but in use";
            discard(path);
            close(folder);
        }
        if (unpack(base, path) >= 0)
            return NULL;
        if (errno != EEXIST)
            return strerror(errno);
    }
    return "other versions keep deleting it";
}

/* The places to try, in this order. The first, if set, must work. The others are skipped if they cannot be used: the
 * HOME of a service user often does not exist. */
static const char *const PLACES[][2] = {
    {"COLLECTOR_UNPACK_DIR", ""}, {"CACHE_DIRECTORY", ""}, {"XDG_CACHE_HOME", ""}, {"HOME", "/.cache"}, {"TMPDIR", ""},
};

static void find_place(char *path)
{
    for (size_t i = 0; i < sizeof PLACES / sizeof *PLACES; i++) {
        char place[PATH_MAX];
        const char *value = getenv(PLACES[i][0]);
        if (!value || !*value || (i && *value != '/'))
            continue;
        /* systemd's CACHE_DIRECTORY is a list */
        int length = i == 1 ? (int)strcspn(value, ":") : (int)strlen(value);
        if (snprintf(place, sizeof place, "%.*s%s", length, value, PLACES[i][1]) >= (int)sizeof place)
            continue;
        const char *refusal = unpacked(place, path);
        if (!refusal)
            return;
        if (i == 0)
            fail("cannot unpack into %s: %s", place, refusal);
    }
    const char *refusal = unpacked("/tmp", path);
    if (refusal)
        fail("cannot unpack into /tmp: %s; " ADVICE, refusal);
}

int main(int count, char **arguments)
{
    static char path[PATH_MAX], python[PATH_MAX], app[PATH_MAX];
    /* If a standard stream is closed, open /dev/null for it, or messages could land in an unpacked file. */
    int nothing;
    while ((nothing = open("/dev/null", O_RDWR)) >= 0 && nothing < 3)
        ;
    if (nothing >= 0)
        close(nothing);
    mode_t mask = umask(022); /* every user must be able to run the code that root unpacks */
    find_place(path);
    umask(mask);
    if (count == 2 && !strcmp(arguments[1], "--unpack-only")) {
        if (puts(path) < 0 || fflush(stdout))
            fail("cannot write to standard output: %s", strerror(errno));
        return 0;
    }

    /* `collector install` copies this file. */
    char self[PATH_MAX];
    if (realpath("/proc/self/exe", self))
        setenv("COLLECTOR_BINARY", self, 1);

    /* -I -S -B: no environment variable and no file of the machine's own Python affects what runs. */
    char *command[count + 5];
    join(python, path, "bin/collector");
    join(app, path, "app");
    memcpy(command, (char *[]){python, "-I", "-S", "-B", app}, 5 * sizeof *command);
    memcpy(command + 5, arguments + 1, count * sizeof *command); /* and the NULL */
    /* Without /proc, ld.so cannot resolve $ORIGIN, and would not find the libraries. */
    if (access("/proc/self/exe", F_OK))
        setenv("LD_ORIGIN_PATH", dirname(strdup(python)), 1);
    execv(python, command);
    fail("cannot run %s: %s%s; " ADVICE, python, strerror(errno),
         errno == EACCES ? " (mounted noexec?)" : "");
}
