/* The subject of a message: the command line's, with the peer's user in the place of {uid} or {label}. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bridge.h"

static const char *label_of(const struct settings *settings, uint32_t uid)
{
    for (size_t i = 0; i < settings->label_count; i++)
        if (settings->labels[i].uid == uid)
            return settings->labels[i].text;
    return NULL;
}

/* Copies the template and puts `uid` and `label` into it; false if there is no room. */
static bool expand(const char *template, const char *uid, const char *label, char subject[SUBJECT_SIZE])
{
    size_t length = 0;
    while (*template != '\0') {
        const char *part = template;
        size_t size = 1;
        if (strncmp(template, "{uid}", 5) == 0) {
            part = uid;
            size = strlen(uid);
            template += 5;
        } else if (strncmp(template, "{label}", 7) == 0) {
            part = label;
            size = strlen(label);
            template += 7;
        } else {
            template += 1;
        }
        if (length + size >= SUBJECT_SIZE)
            return false;
        memcpy(subject + length, part, size);
        length += size;
    }
    subject[length] = '\0';
    return true;
}

/* Whether a message can be published to it: tokens with dots between, none empty, no wildcard, no blank. */
static bool can_publish_to(const char *subject)
{
    size_t length = strlen(subject);
    if (length == 0 || subject[0] == '.' || subject[length - 1] == '.' || strstr(subject, "..") != NULL)
        return false;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)subject[i] <= ' ' || subject[i] == 127 || strchr("*>{}", subject[i]) != NULL)
            return false;
    return true;
}

/* With the longest number, and with every label. */
bool subject_is_valid(const struct settings *settings)
{
    char subject[SUBJECT_SIZE];
    if (!expand(settings->subject, "4294967295", "4294967295", subject) || !can_publish_to(subject))
        return false;
    for (size_t i = 0; i < settings->label_count; i++)
        if (!expand(settings->subject, "4294967295", settings->labels[i].text, subject) || !can_publish_to(subject))
            return false;
    return true;
}

void subject_for(const struct settings *settings, const udsipc_connection *connection, char subject[SUBJECT_SIZE])
{
    char number[16] = "unknown";
    const char *label = NULL;
    int32_t pid;
    uint32_t uid, gid;
    if (udsipc_connection_credentials(connection, &pid, &uid, &gid) == UDSIPC_OK) {
        snprintf(number, sizeof number, "%" PRIu32, uid);
        label = label_of(settings, uid);
    }
    expand(settings->subject, number, label != NULL ? label : number, subject); /* fits: subject_is_valid */
}

static bool is_label_of_several_tokens(const struct settings *settings)
{
    for (size_t i = 0; i < settings->label_count; i++)
        if (strchr(settings->labels[i].text, '.') != NULL)
            return true;
    return false;
}

/* What a stream has to cover: a token with a placeholder in it becomes "*"; with a label that has dots in it, it and all behind
 * it become ">". */
void subject_filter(const struct settings *settings, char filter[SUBJECT_SIZE])
{
    size_t length = 0;
    bool longer = is_label_of_several_tokens(settings);
    for (const char *token = settings->subject;;) {
        size_t size = strcspn(token, ".");
        const char *placeholder = strchr(token, '{'), *label = strstr(token, "{label}");
        if (longer && label != NULL && label < token + size) {
            filter[length++] = '>';
            break;
        }
        if (placeholder != NULL && placeholder < token + size) {
            filter[length++] = '*';
        } else {
            memcpy(filter + length, token, size); /* fits: no longer than the subject without the placeholder */
            length += size;
        }
        if (token[size] == '\0')
            break;
        filter[length++] = '.';
        token += size + 1;
    }
    filter[length] = '\0';
}
