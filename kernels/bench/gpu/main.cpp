// qp_gpu_check: what a card does with this library, as JSON and as a short table.
//
//   qp_gpu_check OUT.json [--shim] [STEP ...]
//
// Steps: machine, products, prefill, attention, models, cpu; all without a name. OUT.json is written anew after each,
// so that a step that hangs loses itself alone. --shim: small sizes, for the build whose kernels run on the CPU. Exits
// with 1 where a step failed or the card disagreed with the CPU.
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <string>

#include "kernels/bench/gpu/steps.h"

using namespace quantplug::bench;

namespace {

/// The rows of a step, none where it failed.
Json rows_of(const Json& results, const char* step) {
    return results.contains(step) && results[step].is_array() ? results[step] : Json::array();
}

void print_table(const Json& results) {
    if (results.contains("machine")) {
        const Json& m = results["machine"];
        if (m.contains("card")) {
            std::printf("%s, driver %d, runtime %d: copy %.0f GB/s, read %.0f GB/s\n",
                        m["card"].get<std::string>().c_str(), m["driver"].get<int>(), m["runtime"].get<int>(),
                        m["copy_gb_per_s"].get<double>(), m["read_gb_per_s"].get<double>());
            for (const auto& [how, us] : m["launch_us"].items())
                std::printf("  a kernel after another, %-18s %6.2f us\n", how.c_str(), us.get<double>());
        }
    }
    for (const Json& row : rows_of(results, "models")) {
        if (row.value("test", "") == "decode")
            std::printf("%-15s %d bits decode  %-18s batch %2d context %4d %9.0f tokens/s %5.0f GB/s %.2f of copy\n",
                        row["model"].get<std::string>().c_str(), row["bits"].get<int>(),
                        row["how"].get<std::string>().c_str(), row["batch"].get<int>(), row["context"].get<int>(),
                        row["tokens_per_s"].get<double>(), row["gb_per_s"].get<double>(),
                        row["share_of_copy"].get<double>());
        else if (row.value("test", "") == "prefill")
            std::printf("%-15s %d bits prefill of %d: %.0f tokens/s\n", row["model"].get<std::string>().c_str(),
                        row["bits"].get<int>(), row["tokens"].get<int>(), row["tokens_per_s"].get<double>());
    }
    for (const Json& row : rows_of(results, "cpu"))
        if (row.contains("kl"))
            std::printf("CPU and GPU, %d bits: %d of %d clear choices equal, KL %.1e\n", row["bits"].get<int>(),
                        row["equal"].get<int>(), row["clear"].get<int>(), row["kl"].get<double>());
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: qp_gpu_check OUT.json [--shim] [STEP ...]\n");
        return 2;
    }
    Scale scale;
    std::vector<std::string> steps;
    for (int i = 2; i < argc; ++i) {
        if (std::strcmp(argv[i], "--shim") == 0)
            scale.shim = true;
        else
            steps.push_back(argv[i]);
    }
    const struct {
        const char* name;
        Json (*run)(const Scale&);
    } all[] = {{"products", sweep_products},
               {"prefill", sweep_prefill},
               {"attention", sweep_attention},
               {"models", run_models},
               {"cpu", compare_with_cpu}};
    for (const std::string& step : steps) {
        bool known = step == "machine";
        for (const auto& one : all) known = known || step == one.name;
        if (!known) {
            std::fprintf(stderr, "qp_gpu_check: there is no step %s\n", step.c_str());
            return 2;
        }
    }
    Json results;
    bool failed = false;
    const auto run = [&](const char* name, auto&& work) {
        try {
            results[name] = work();
        } catch (const std::exception& error) {
            results[name] = {{"error", error.what()}};
            std::fprintf(stderr, "%s: %s\n", name, error.what());
            failed = true;
        }
        std::ofstream(argv[1]) << results.dump(1) << '\n';
    };
    run("machine", [&] { return check_machine(scale); });  // others need its bandwidth
    for (const auto& one : all) {
        if (steps.empty() || std::find(steps.begin(), steps.end(), one.name) != steps.end())
            run(one.name, [&] { return one.run(scale); });
    }
    print_table(results);
    for (const Json& row : rows_of(results, "cpu"))
        if (row.contains("passed") && !row["passed"].get<bool>()) failed = true;
    return failed;
}
