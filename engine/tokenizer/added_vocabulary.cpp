#include "engine/tokenizer/added_vocabulary.h"

#include <algorithm>
#include <string>
#include <unordered_map>

namespace quantplug::engine {

std::vector<AddedToken> merge_added_tokens(std::vector<AddedToken> listed, const SpecialTokens& names,
                                           const Vocab& vocab) {
    std::unordered_map<std::string, size_t> places;
    int32_t next = vocab.size();
    for (size_t i = 0; i < listed.size(); ++i) {
        places.emplace(listed[i].content, i);
        if (listed[i].id < INT32_MAX) next = std::max(next, listed[i].id + 1);
    }
    const auto add = [&](AddedToken token) {
        token.id = vocab.find(token.content);
        if (token.id < 0) token.id = next++;
        places.emplace(token.content, listed.size());
        listed.push_back(std::move(token));
    };
    for (const AddedToken& token : names.added) {
        if (token.content.empty()) continue;
        const auto place = places.find(token.content);
        if (place == places.end()) {
            add(token);
            continue;
        }
        AddedToken& known = listed[place->second];
        const AddedToken before = known;
        known = token;
        known.id = before.id;
        known.special = known.special || before.special;  // once special, a token stays so
    }
    std::vector<std::string> special = {names.bos, names.eos};
    special.insert(special.end(), names.others.begin(), names.others.end());
    const size_t n_named = special.size();
    special.insert(special.end(), names.additional.begin(), names.additional.end());
    for (size_t i = 0; i < special.size(); ++i) {
        const std::string& content = special[i];
        const auto place = places.find(content);
        if (place != places.end()) {
            listed[place->second].special = listed[place->second].special || i < n_named;
        } else if (!content.empty() && vocab.find(content) >= 0) {
            AddedToken token;
            token.content = content;
            token.normalized = false;
            token.special = true;
            add(std::move(token));
        }
    }
    return listed;
}

}  // namespace quantplug::engine
