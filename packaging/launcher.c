/* The binary: a payload, and what unpacks it once and becomes what is in it.
 *
 * The payload is a tar of Python, its library and the collector, compressed with zstd. It is unpacked into a folder
 * that is named by its hash:
 *
 *     BASE/collector-0123456789abcdef/           gets this name by a rename, when all of it is there
 *     BASE/collector-0123456789abcdef.XXXXXX/    being unpacked, or being deleted
 *
 * Nothing is synced, which would cost a first start seconds on a busy disk: each start compares the names and sizes of
 * all files, in 2 ms, and unpacks anew if one is not right. After a power cut a file system that writes data before
 * its size (ext4, XFS, btrfs do) has short files; and a cleaner of /tmp leaves gaps, too.
 *
 * Whoever unpacks or runs holds a shared lock on the folder, which lasts over exec and dies with the process.
 * What can be locked alone is in nobody's use: a version that has been unpacked deletes such folders of other versions
 * and what was left half done. Nobody waits for a lock, and nobody waits for another who unpacks: two do it twice, and
 * the second to finish throws his away.
 *
 * Code is run only from a folder, in a folder, that nobody but this user and root can write to.
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

/* Given by the build: FOLDER, collector- and 16 hexadecimal digits; PAYLOAD, the file to carry; and its contents. */
static const struct { const char *name; off_t size; } FILES[] = {
#include CONTENTS
};
#define PREFIX "collector-"
#define DIGITS 16
#define ADVICE "COLLECTOR_UNPACK_DIR names a better place"

__asm__(".section .rodata\n.balign 16\npayload: .incbin \"" PAYLOAD "\"\npayload_end:\n.previous\n");
extern const char payload[] __attribute__((visibility("hidden")));
extern const char payload_end[] __attribute__((visibility("hidden")));

static char unfinished[PATH_MAX]; /* what to delete should we fail */

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

/* Open a folder and share its lock; -1 if there is none, or it is being deleted. */
static int hold(const char *path)
{
    struct stat status, now;
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (folder >= 0 && folder < 3) { /* a standard stream is closed (no /dev/null), and must not become a lock */
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

static int whole(int folder)
{
    struct stat status;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES; i++)
        if (fstatat(folder, FILES[i].name, &status, AT_SYMLINK_NOFOLLOW) || status.st_size != FILES[i].size)
            return 0;
    return 1;
}

/* Delete; killed in the middle, it does not have the name of a whole one. */
static void discard(const char *path)
{
    char gone[PATH_MAX + sizeof ".gone"];
    snprintf(gone, sizeof gone, "%s.gone", path);
    remove_tree(gone);
    if (!rename(path, gone))
        remove_tree(gone);
}

/* The next `size` bytes of the tar. */
static void take(ZSTD_DStream *stream, ZSTD_inBuffer *in, void *to, size_t size)
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
        take(stream, in, chunk, want);
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

/* Unpack into a folder that is there. Of tar only what the build writes: folders before their files, and files. */
static void extract(const char *folder)
{
    struct { char name[100], mode[8], ids[16], size[12], time[12], sum[8], type, rest[355]; } header;
    char padding[512], path[PATH_MAX];
    ZSTD_DStream *stream = ZSTD_createDStream();
    ZSTD_inBuffer in = {payload, payload_end - payload, 0};
    _Static_assert(sizeof header == 512, "a block of tar");
    for (;;) {
        take(stream, &in, &header, sizeof header);
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
        take(stream, &in, padding, -size % 512);
    }
    /* To the end of the frame, where zstd compares its checksum. */
    for (size_t left = 1; left;) {
        ZSTD_outBuffer out = {padding, sizeof padding, 0};
        left = ZSTD_decompressStream(stream, &out, &in);
        if (ZSTD_isError(left) || (left && !out.pos))
            fail("this file is damaged: %s", ZSTD_isError(left) ? ZSTD_getErrorName(left) : "it ends too early");
    }
    ZSTD_freeDStream(stream);
}

/* Delete what nobody uses: what was left half done, and other versions too. What cannot be deleted stays. */
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

/* Unpack, and return the folder's lock; -1 if somebody else was quicker, or none can be made here (`errno`). */
static int unpack(const char *base, const char *path)
{
    char temporary[PATH_MAX];
    int folder;
    sweep(base, 0); /* else those who are killed here again and again fill the disk */
    do { /* again, if somebody's sweep found it before it was locked */
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
    /* Only now: ext4 takes 0.5 ms to make a file where one was deleted in the last 5 s, and there are a thousand. */
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

/* Why this place cannot be used; NULL, and the unpacked folder in `path`, if it can. */
static const char *unpacked(const char *place, char *path)
{
    char base[PATH_MAX];
    struct stat status;
    if (make_folders(place) || !realpath(place, base) || stat(base, &status))
        return strerror(errno);
    if (!S_ISDIR(status.st_mode))
        return strerror(ENOTDIR);
    /* Whoever can rename our folder can put his own in its place; a sticky one, as /tmp, prevents that. */
    if (!ours(&status) || (status.st_mode & (S_IWGRP | S_IWOTH) && !(status.st_mode & S_ISVTX)))
        return "others can write to it";
    join(path, base, FOLDER);
    for (int attempt = 0; attempt < 5; attempt++) {
        int folder = hold(path);
        if (folder >= 0 && whole(folder))
            return NULL;
        if (folder >= 0) {
            if (flock(folder, LOCK_EX | LOCK_NB))
                return "what was unpacked there is incomplete, and in use";
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

/* Where to unpack, in the order of asking. Only the first is an order; the others are passed over where they cannot be
 * used (a service user's HOME is often none). */
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
    /* Where a standard stream is closed, what we say would land in a file that we unpack. */
    int nothing;
    while ((nothing = open("/dev/null", O_RDWR)) >= 0 && nothing < 3)
        ;
    if (nothing >= 0)
        close(nothing);
    mode_t mask = umask(022); /* code that root unpacks is for every user to run */
    find_place(path);
    umask(mask);
    if (count == 2 && !strcmp(arguments[1], "--unpack-only")) {
        if (puts(path) < 0 || fflush(stdout))
            fail("standard output cannot be written: %s", strerror(errno));
        return 0;
    }

    /* For `collector install`, which copies it. */
    char self[PATH_MAX];
    if (realpath("/proc/self/exe", self))
        setenv("COLLECTOR_BINARY", self, 1);

    /* Isolated, without site: no variable and no file of the machine's own Python changes what runs. */
    char *command[count + 5];
    join(python, path, "bin/collector");
    join(app, path, "app");
    memcpy(command, (char *[]){python, "-I", "-S", "-B", app}, 5 * sizeof *command);
    memcpy(command + 5, arguments + 1, count * sizeof *command); /* and the NULL */
    /* Where there is no /proc, ld.so does not know what $ORIGIN is to a program, and its libraries are beside it. */
    if (access("/proc/self/exe", F_OK))
        setenv("LD_ORIGIN_PATH", dirname(strdup(python)), 1);
    execv(python, command);
    fail("cannot run %s: %s%s; " ADVICE, python, strerror(errno),
         errno == EACCES ? " (programs may not be run from there: noexec)" : "");
}
