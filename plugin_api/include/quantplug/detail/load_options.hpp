// load_options.hpp - load options, checked against what the backend lists. C++17.
#ifndef QUANTPLUG_DETAIL_LOAD_OPTIONS_HPP
#define QUANTPLUG_DETAIL_LOAD_OPTIONS_HPP

#include <quantplug/options.h>

#include <charconv>
#include <quantplug/common.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace quantplug::backend {

/// Every key is one that the backend lists and every value of its type and range; what was not given has its default.
class LoadOptions {
 public:
    LoadOptions() = default;

    /// Throws INVALID_ARGUMENT that names the key and what is expected. `known` holds every option that there is.
    LoadOptions(std::vector<qp_option_info> known, const qp_option* given, size_t n_given) : known_(std::move(known)) {
        values_.resize(known_.size());
        set_.resize(known_.size());
        for (size_t i = 0; i < known_.size(); ++i) values_[i] = known_[i].default_value ? known_[i].default_value : "";
        for (size_t g = 0; g < n_given; ++g) {
            if (!given[g].key || !given[g].value)
                throw Error(QP_INVALID_ARGUMENT,
                            "load option number " + std::to_string(g) + " has a null key or value");
            const size_t i = find(given[g].key);
            if (i == known_.size())
                throw Error(QP_INVALID_ARGUMENT, "unknown load option '" + std::string(given[g].key) + "': " + names());
            if (set_[i])
                throw Error(QP_INVALID_ARGUMENT,
                            "load option '" + std::string(given[g].key) + "' is given twice: leave one out");
            check(known_[i], given[g].value);
            values_[i] = given[g].value;
            set_[i] = true;
        }
    }

    bool is_set(std::string_view key) const { return set_[index(key)]; }
    const std::string& text(std::string_view key) const { return values_[index(key)]; }
    bool flag(std::string_view key) const { return text(key) == "1"; }
    int64_t integer(std::string_view key) const {
        int64_t value = 0;
        if (!parse(text(key), value))
            throw Error(QP_INTERNAL, "load option '" + std::string(key) + "' has the default '" + text(key) +
                                         "', which is no integer");
        return value;
    }

 private:
    static bool parse(std::string_view text, int64_t& value) {
        const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
        return result.ec == std::errc() && result.ptr == text.data() + text.size();
    }

    static void check(const qp_option_info& info, std::string_view value) {
        std::string expected;
        int64_t number = 0;
        if (info.type == QP_OPTION_INT) {
            if (parse(value, number) && number >= info.minimum && number <= info.maximum) return;
            expected = "an integer from " + std::to_string(info.minimum) + " to " + std::to_string(info.maximum);
        } else if (info.type == QP_OPTION_BOOL) {
            if (value == "0" || value == "1") return;
            expected = "0 or 1";
        } else if (info.type == QP_OPTION_CHOICE) {
            const std::string_view choices = info.choices ? info.choices : "";
            for (size_t at = 0; at <= choices.size();) {
                const size_t bar = choices.find('|', at);
                const size_t end = bar == std::string_view::npos ? choices.size() : bar;
                if (value == choices.substr(at, end - at)) return;
                at = end + 1;
            }
            expected = "one of " + std::string(choices);
        } else {
            return;
        }
        throw Error(QP_INVALID_ARGUMENT,
                    "load option '" + std::string(info.key) + "' is '" + std::string(value) + "': give " + expected);
    }

    std::string names() const {
        if (known_.empty()) return "this plugin has none";
        std::string text = "this plugin has ";
        for (size_t i = 0; i < known_.size(); ++i) text.append(i ? ", " : "").append(known_[i].key);
        return text;
    }

    size_t find(std::string_view key) const {
        size_t i = 0;
        while (i < known_.size() && known_[i].key != key) ++i;
        return i;
    }
    size_t index(std::string_view key) const {
        const size_t i = find(key);
        if (i == known_.size())
            throw Error(QP_INTERNAL,
                        "the backend asked for load option '" + std::string(key) + "', which it does not list");
        return i;
    }

    std::vector<qp_option_info> known_;
    std::vector<std::string> values_;
    std::vector<bool> set_;
};

}  // namespace quantplug::backend

#endif
