/* One question, asked through the model's chat template.
 *
 *   ask MODEL.brk QUESTION [INSTRUCTIONS]
 */
#include <brooklet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STOPS = 8 };

static int check(brooklet_result result, const char *what) {
    if (result != BROOKLET_OK)
        fprintf(stderr, "%s: %s (%s)\n", what, brooklet_last_message(),
                brooklet_result_name(result));
    return result == BROOKLET_OK;
}

static int32_t print(const char *text, size_t length, uint32_t token, void *user) {
    (void)token;
    fwrite(text, 1, length, user);
    fflush(user);
    return 0;
}

/* The tokens of the conversation: their number first, then they. NULL after a failure. */
static uint32_t *encode(const brooklet_chat *chat, const brooklet_chat_turn *turns, size_t n_turn,
                        size_t *n) {
    if (brooklet_chat_encode(chat, turns, n_turn, NULL, NULL, 0, n) != BROOKLET_BUFFER) {
        fprintf(stderr, "encode: %s\n", brooklet_last_message());
        return NULL;
    }
    uint32_t *ids = malloc(*n * sizeof *ids);
    if (ids != NULL &&
        !check(brooklet_chat_encode(chat, turns, n_turn, NULL, ids, *n, n), "encode")) {
        free(ids);
        ids = NULL;
    }
    return ids;
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 4) {
        fprintf(stderr, "usage: %s MODEL.brk QUESTION [INSTRUCTIONS]\n", argv[0]);
        return 2;
    }
    brooklet_model *model = NULL;
    brooklet_chat *chat = NULL;
    brooklet_tokenizer *tokenizer = NULL;
    brooklet_sampler *sampler = NULL;
    brooklet_session *session = NULL;
    brooklet_model_info info;
    brooklet_generate_options options;
    brooklet_chat_turn turns[2];
    const char *stops[STOPS];
    uint32_t *ids = NULL;
    size_t n_turn = 0, n_stop = 0, n = 0;
    int ok = 0;

    if (argc == 4) {
        brooklet_chat_turn system = {"system", argv[3], strlen(argv[3]), NULL};
        turns[n_turn++] = system;
    }
    brooklet_chat_turn user = {"user", argv[2], strlen(argv[2]), NULL};
    turns[n_turn++] = user;
    if (!check(brooklet_model_open(argv[1], NULL, &model), "open") ||
        !check(brooklet_model_get_info(model, &info, sizeof info), "info") ||
        !check(brooklet_chat_of_model(model, 0, &chat), "chat") ||
        !check(brooklet_chat_tokenizer(chat, &tokenizer), "tokenizer") ||
        !check(brooklet_session_new(model, NULL, &session), "session") ||
        !check(brooklet_sampler_new(NULL, info.n_vocab, &sampler), "sampler") ||
        !check(brooklet_generate_options_init(&options, sizeof options), "options"))
        goto done;
    while (n_stop < STOPS && brooklet_chat_stop(chat, n_stop, &stops[n_stop]) == BROOKLET_OK &&
           stops[n_stop] != NULL)
        n_stop++;
    options.max_tokens = 24;
    options.stops = stops;
    options.n_stop = n_stop;
    ids = encode(chat, turns, n_turn, &n);
    ok = ids != NULL && check(brooklet_session_prefill(session, ids, n, NULL, NULL), "prefill") &&
         check(brooklet_session_generate(session, sampler, tokenizer, &options, print, stdout, NULL,
                                         0),
               "generate");
    putchar('\n');

done:
    free(ids);
    brooklet_session_free(session);
    brooklet_sampler_free(sampler);
    brooklet_tokenizer_free(tokenizer);
    brooklet_chat_free(chat);
    brooklet_model_free(model);
    return ok ? 0 : 1;
}
