/* A conversation on standard input and output, kept in a state file: the next run goes on where this one ended.
 *
 *   chat MODEL.brk TALK.brks
 */
#include <brooklet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4096 };

static int check(brooklet_result result, const char *what) {
    if (result != BROOKLET_OK)
        fprintf(stderr, "%s: %s (%s)\n", what, brooklet_last_message(), brooklet_result_name(result));
    return result == BROOKLET_OK;
}

static int32_t print(const char *text, size_t length, uint32_t token, void *user) {
    (void)token;
    fwrite(text, 1, length, user);
    fflush(user);
    return 0;
}

/* Reads the line, behind the token that the last answer left unread, and answers it. */
static int turn(brooklet_session *session, brooklet_sampler *sampler, const brooklet_tokenizer *tokenizer,
                const char *line, uint32_t *pending) {
    static const char *const stops[] = {"\n\nUser:"};
    static char text[MOST];
    static uint32_t ids[MOST + 2];
    brooklet_generate_options options;
    brooklet_generated generated;
    size_t n = 0, first = *pending != BROOKLET_NO_TOKEN;
    int length = snprintf(text, sizeof text, "\n\nUser: %s\n\nAssistant:", line);
    if (length < 0 || length >= MOST)
        return 0;
    ids[0] = *pending;
    if (!check(brooklet_tokenizer_encode(tokenizer, text, (size_t)length, ids + first, MOST, &n), "encode") ||
        !check(brooklet_session_prefill(session, ids, first + n, NULL, NULL), "prefill") ||
        !check(brooklet_generate_options_init(&options, sizeof options), "options"))
        return 0;
    options.max_tokens = 24;
    options.stops = stops;
    options.n_stop = 1;
    if (!check(brooklet_session_generate(session, sampler, tokenizer, &options, print, stdout, &generated,
                                         sizeof generated),
               "generate"))
        return 0;
    *pending = generated.reason == BROOKLET_END_OF_TEXT ? BROOKLET_NO_TOKEN : generated.pending;
    putchar('\n');
    return 1;
}

/* Takes the conversation up, if there is one. */
static int resume(const brooklet_model *model, brooklet_session *session, brooklet_sampler *sampler, const char *path) {
    brooklet_snapshot *snapshot = NULL;
    brooklet_result result = brooklet_snapshot_load(model, path, &snapshot);
    if (result == BROOKLET_IO) {
        fprintf(stderr, "a new conversation\n");
        return 1;
    }
    int ok = check(result, "load") && check(brooklet_session_resume(session, snapshot, sampler), "resume");
    brooklet_snapshot_free(snapshot);
    return ok;
}

static int save(const brooklet_session *session, const brooklet_sampler *sampler, uint32_t pending, const char *path) {
    brooklet_snapshot *snapshot = NULL;
    size_t unread = pending != BROOKLET_NO_TOKEN;
    int ok = check(brooklet_snapshot_of_session(session, sampler, &snapshot), "snapshot") &&
             check(brooklet_snapshot_set_tail(snapshot, &pending, unread, unread), "tail") &&
             check(brooklet_snapshot_save(snapshot, path, NULL), "save");
    brooklet_snapshot_free(snapshot);
    return ok;
}

int main(int argc, char **argv) {
    static char line[1024];
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.brk TALK.brks\n", argv[0]);
        return 2;
    }
    brooklet_model *model = NULL;
    brooklet_tokenizer *tokenizer = NULL;
    brooklet_sampler *sampler = NULL;
    brooklet_session *session = NULL;
    brooklet_model_info info;
    brooklet_sampler_options options;
    uint32_t pending = BROOKLET_NO_TOKEN;
    int ok = 0;

    brooklet_sampler_options_init(&options, sizeof options);
    options.temperature = 0.8f;
    options.presence_penalty = 0.3f;
    options.has_seed = 1;
    options.seed = 1;
    if (!check(brooklet_model_open(argv[1], NULL, &model), "open") ||
        !check(brooklet_model_get_info(model, &info, sizeof info), "info") ||
        !check(brooklet_tokenizer_of_model(model, &tokenizer), "tokenizer") ||
        !check(brooklet_session_new(model, NULL, &session), "session") ||
        !check(brooklet_sampler_new(&options, info.n_vocab, &sampler), "sampler") ||
        !resume(model, session, sampler, argv[2]))
        goto done;
    ok = 1;
    while (ok && fgets(line, sizeof line, stdin) != NULL) {
        line[strcspn(line, "\n")] = 0;
        ok = turn(session, sampler, tokenizer, line, &pending);
    }
    ok = ok && save(session, sampler, pending, argv[2]);

done:
    brooklet_session_free(session);
    brooklet_sampler_free(sampler);
    brooklet_tokenizer_free(tokenizer);
    brooklet_model_free(model);
    return ok ? 0 : 1;
}
