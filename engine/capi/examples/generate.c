/* Continues a prompt, piece by piece, with the model's own tokenizer.
 *
 *   generate MODEL.brk "Once upon a time" [TOKENS [SEED]]
 */
#include <brooklet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(brooklet_result result, const char *what) {
    if (result != BROOKLET_OK)
        fprintf(stderr, "%s: %s (%s)\n", what, brooklet_last_message(), brooklet_result_name(result));
    return result == BROOKLET_OK;
}

static int32_t print(const char *text, size_t length, uint32_t token, void *user) {
    (void)token;
    fwrite(text, 1, length, user);
    fflush(user);
    return 0; /* anything else would stop the text */
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL.brk PROMPT [TOKENS [SEED]]\n", argv[0]);
        return 2;
    }
    brooklet_model *model = NULL;
    brooklet_tokenizer *tokenizer = NULL;
    brooklet_sampler *sampler = NULL;
    brooklet_session *session = NULL;
    uint32_t *ids = NULL;
    int ok = 0;

    brooklet_session_options session_options;
    brooklet_sampler_options sampler_options;
    brooklet_generate_options generate_options;
    brooklet_model_info info;
    brooklet_session_options_init(&session_options, sizeof session_options);
    brooklet_sampler_options_init(&sampler_options, sizeof sampler_options);
    brooklet_generate_options_init(&generate_options, sizeof generate_options);
    session_options.threads = 2;
    sampler_options.temperature = 0.8f;
    sampler_options.top_p = 0.9f;
    sampler_options.has_seed = 1;
    sampler_options.seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 42;
    generate_options.max_tokens = argc > 3 ? strtoul(argv[3], NULL, 10) : 64;

    if (!check(brooklet_model_open(argv[1], NULL, &model), "open") ||
        !check(brooklet_model_get_info(model, &info, sizeof info), "info") ||
        !check(brooklet_tokenizer_of_model(model, &tokenizer), "tokenizer") ||
        !check(brooklet_session_new(model, &session_options, &session), "session") ||
        !check(brooklet_sampler_new(&sampler_options, info.n_vocab, &sampler), "sampler"))
        goto done;
    fprintf(stderr, "%s, %d layers, %s kernels, state of %d bytes\n", brooklet_model_architecture(model),
            (int)info.n_layer, brooklet_model_isa(model), (int)info.state_bytes);

    size_t length = strlen(argv[2]), n = 0;
    ids = malloc((length + 1) * sizeof *ids); /* never more ids than bytes and one */
    if (ids == NULL ||
        !check(brooklet_tokenizer_prompt(tokenizer, argv[2], length, ids, length + 1, &n), "encode") ||
        !check(brooklet_session_prefill(session, ids, n, NULL, NULL), "prefill"))
        goto done;
    brooklet_generated generated;
    ok = check(brooklet_session_generate(session, sampler, tokenizer, &generate_options, print, stdout, &generated,
                                         sizeof generated),
               "generate");
    putchar('\n');
    if (ok)
        fprintf(stderr, "%d tokens, reason %d\n", (int)generated.tokens, (int)generated.reason);

done: /* in any order; NULL is fine */
    free(ids);
    brooklet_model_free(model);
    brooklet_tokenizer_free(tokenizer);
    brooklet_sampler_free(sampler);
    brooklet_session_free(session);
    return ok ? 0 : 1;
}
