/* Classifies a text in two ways: by the likeliest of some endings, and by the nearest of some examples.
 *
 *   classify MODEL.brk TEXT ENDING ENDING...
 *
 * Endings: the text is read once; each ending starts from a copy of that state, and its score is the mean log-probability
 * of its tokens. Nearest: cosine of the texts' embeddings, the mean of the hidden states.
 */
#include <brooklet.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int check(brooklet_result result, const char *what) {
    if (result != BROOKLET_OK)
        fprintf(stderr, "%s: %s (%s)\n", what, brooklet_last_message(), brooklet_result_name(result));
    return result == BROOKLET_OK;
}

/* log p(token): the logit less the logarithm of the sum of all exponentials. */
static double log_probability(const float *logits, size_t n, uint32_t token) {
    double max = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return logits[token] - max - log(sum);
}

/* Up to `most` ids of a text; their number, or 0 after a failure. */
static size_t encode(const brooklet_tokenizer *tokenizer, const char *text, uint32_t *ids, size_t most) {
    size_t n = 0;
    return check(brooklet_tokenizer_encode(tokenizer, text, strlen(text), ids, most, &n), "encode") ? n : 0;
}

/* Mean log-probability of `n` tokens behind what the session has read. */
static int score(brooklet_session *session, const uint32_t *ids, size_t n, double *mean) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float *logits;
        size_t n_vocab;
        if (!check(brooklet_session_logits(session, 0, &logits, &n_vocab), "logits"))
            return 0;
        sum += log_probability(logits, n_vocab, ids[i]);
        if (i + 1 < n && !check(brooklet_session_step(session, ids[i]), "step"))
            return 0;
    }
    *mean = sum / (double)n;
    return 1;
}

/* The embedding of a text by itself. */
static int embed(brooklet_session *session, const uint32_t *ids, size_t n, float *embedding, size_t d_model) {
    return check(brooklet_session_reset(session), "reset") &&
           check(brooklet_session_embed(session, ids, n, BROOKLET_POOL_MEAN, embedding, d_model, NULL, NULL), "embed");
}

static double cosine(const float *a, const float *b, size_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (size_t i = 0; i < n; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return ab / sqrt(aa * bb);
}

int main(int argc, char **argv) {
    enum { MOST = 4096 };
    static uint32_t text[MOST], ending[MOST];
    if (argc < 4) {
        fprintf(stderr, "usage: %s MODEL.brk TEXT ENDING ENDING...\n", argv[0]);
        return 2;
    }
    brooklet_model *model = NULL;
    brooklet_tokenizer *tokenizer = NULL;
    brooklet_session *session = NULL;
    brooklet_state *state = NULL;
    brooklet_model_info info;
    float *embeddings = NULL;
    int ok = 0, likeliest = 0, nearest = 0;
    double best_score = -INFINITY, best_cosine = -INFINITY;

    if (!check(brooklet_model_open(argv[1], NULL, &model), "open") ||
        !check(brooklet_model_get_info(model, &info, sizeof info), "info") ||
        !check(brooklet_tokenizer_of_model(model, &tokenizer), "tokenizer") ||
        !check(brooklet_session_new(model, NULL, &session), "session"))
        goto done;
    size_t d_model = info.d_model, n = encode(tokenizer, argv[2], text, MOST);
    embeddings = malloc(2 * d_model * sizeof *embeddings);
    /* The state before the text's last token, which is read anew for each ending: it gives the logits to start from. */
    if (n == 0 || embeddings == NULL || !embed(session, text, n, embeddings, d_model) ||
        !check(brooklet_session_reset(session), "reset") ||
        (n > 1 && !check(brooklet_session_prefill(session, text, n - 1, NULL, NULL), "prefill")) ||
        !check(brooklet_session_get_state(session, &state), "state"))
        goto done;
    for (int i = 3; i < argc; i++) {
        double mean, near;
        size_t n_ending = encode(tokenizer, argv[i], ending, MOST);
        if (n_ending == 0 || !check(brooklet_session_set_state(session, state), "set state") ||
            !check(brooklet_session_step(session, text[n - 1]), "step") ||
            !score(session, ending, n_ending, &mean) ||
            !embed(session, ending, n_ending, embeddings + d_model, d_model))
            goto done;
        near = cosine(embeddings, embeddings + d_model, d_model);
        printf("%s: log-probability %.4f per token, cosine %.4f\n", argv[i], mean, near);
        if (mean > best_score) {
            best_score = mean;
            likeliest = i;
        }
        if (near > best_cosine) {
            best_cosine = near;
            nearest = i;
        }
    }
    printf("likeliest: %s\nnearest: %s\n", argv[likeliest], argv[nearest]);
    ok = 1;

done:
    free(embeddings);
    brooklet_state_free(state);
    brooklet_session_free(session);
    brooklet_tokenizer_free(tokenizer);
    brooklet_model_free(model);
    return ok ? 0 : 1;
}
