// The header in C++11: every constant, struct and callback is usable, and a session runs.
//
//   check MODEL.brk
#include <brooklet.h>

#include <cstring>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

void check(brooklet_result result) {
    if (result != BROOKLET_OK)
        throw std::runtime_error(std::string(brooklet_result_name(result)) + ": " + brooklet_last_message());
}

struct Free {
    void operator()(brooklet_model *model) const { brooklet_model_free(model); }
    void operator()(brooklet_tokenizer *tokenizer) const { brooklet_tokenizer_free(tokenizer); }
    void operator()(brooklet_sampler *sampler) const { brooklet_sampler_free(sampler); }
    void operator()(brooklet_session *session) const { brooklet_session_free(session); }
};

template <typename T> using Handle = std::unique_ptr<T, Free>;

int32_t append(const char *text, size_t length, uint32_t, void *user) {
    static_cast<std::string *>(user)->append(text, length);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    static_assert(BROOKLET_ABI_VERSION == 4, "the version this was written for");
    if (brooklet_abi_version() < BROOKLET_ABI_VERSION)
        return 3;
    try {
        brooklet_model *raw_model = nullptr;
        check(brooklet_model_open(argv[1], nullptr, &raw_model));
        Handle<brooklet_model> model(raw_model);
        brooklet_tokenizer *raw_tokenizer = nullptr;
        check(brooklet_tokenizer_of_model(model.get(), &raw_tokenizer));
        Handle<brooklet_tokenizer> tokenizer(raw_tokenizer);
        brooklet_session *raw_session = nullptr;
        check(brooklet_session_new(model.get(), nullptr, &raw_session));
        Handle<brooklet_session> session(raw_session);
        brooklet_model_info info;
        check(brooklet_model_get_info(model.get(), &info, sizeof info));
        brooklet_sampler_options options;
        check(brooklet_sampler_options_init(&options, sizeof options));
        options.temperature = 0;
        brooklet_sampler *raw_sampler = nullptr;
        check(brooklet_sampler_new(&options, static_cast<size_t>(info.n_vocab), &raw_sampler));
        Handle<brooklet_sampler> sampler(raw_sampler);

        const char *prompt = "It was the best of times";
        std::vector<uint32_t> ids(std::strlen(prompt) + 1);
        size_t n = 0;
        check(brooklet_tokenizer_prompt(tokenizer.get(), prompt, std::strlen(prompt), ids.data(), ids.size(), &n));
        check(brooklet_session_prefill(session.get(), ids.data(), n, nullptr, nullptr));
        std::string text;
        brooklet_generate_options generate;
        check(brooklet_generate_options_init(&generate, sizeof generate));
        generate.max_tokens = 16;
        brooklet_generated generated;
        check(brooklet_session_generate(session.get(), sampler.get(), tokenizer.get(), &generate, append, &text,
                                        &generated, sizeof generated));
        std::cout << text << '\n';
        return generated.tokens == 16 && !text.empty() ? 0 : 4;
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}
