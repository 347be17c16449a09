// The thread pool, and how many threads a machine gives.
#include <doctest/doctest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "../support/data.h"
#include "kernels/threads/pool.h"
#include "support.h"

using namespace quantplug::test;

namespace {

void write(const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
}

}  // namespace

TEST_CASE("every index runs once, on more threads than cores too") {
    for (int32_t count : {1, 2, 3, 8, 33}) {
        for (int repeat = 0; repeat < 50; ++repeat) {
            std::vector<int32_t> runs(size_t(count), 0);  // plain: each index writes its own
            run_parallel(count, [&](int32_t index, int32_t total) { runs[size_t(index)] += total == count ? 1 : 100; });
            CHECK(std::all_of(runs.begin(), runs.end(), [](int32_t n) { return n == 1; }));
        }
    }
}

TEST_CASE("calls from several threads queue: one region at a time") {
    std::atomic<int32_t> inside{0}, sum{0};
    std::atomic<bool> overlapped{false};
    int64_t plain = 0;  // written by one region at a time: TSan sees it if two overlap
    std::vector<std::thread> callers;
    for (int32_t caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&, caller] {
            for (int32_t i = 0; i < 200; ++i) {
                run_parallel(3, [&](int32_t index, int32_t) {
                    if (index == 0) {
                        if (inside.fetch_add(1) != 0) overlapped = true;
                        plain += caller;
                        inside.fetch_sub(1);
                    }
                    sum.fetch_add(1);
                });
                if (i % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));  // workers park in between
            }
        });
    }
    for (std::thread& thread : callers) thread.join();
    CHECK_FALSE(overlapped.load());
    CHECK(sum.load() == 4 * 200 * 3);
    CHECK(plain == 200 * (0 + 1 + 2 + 3));
}

TEST_CASE("the default count follows topology and quota") {
    CHECK(default_threads() >= 1);
    CHECK(default_threads() <= int32_t(std::thread::hardware_concurrency()));

    TempDir dir;
    const auto root = dir.path();
    const std::string sys = (root / "sys").string(), proc = (root / "proc").string();
    CHECK(physical_cores(sys.c_str()) == 0);
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 0);
    for (int cpu = 0; cpu < 8; ++cpu) {  // two packages, two cores each, two threads a core
        const auto folder = root / "sys/devices/system/cpu" / ("cpu" + std::to_string(cpu)) / "topology";
        write(folder / "core_id", std::to_string(cpu / 2 % 2) + "\n");
        write(folder / "physical_package_id", std::to_string(cpu / 4) + "\n");
    }
    CHECK(physical_cores(sys.c_str()) == 4);

    write(root / "proc/self/cgroup", "0::/user/app\n");
    write(root / "sys/fs/cgroup/user/app/cpu.max", "max 100000\n");
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 0);
    write(root / "sys/fs/cgroup/user/cpu.max", "350000 100000\n");  // the parent's limit binds
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 3);
    write(root / "sys/fs/cgroup/user/app/cpu.max", "50000 100000\n");
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 1);

    write(root / "proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/y\n");
    write(root / "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "-1\n");
    write(root / "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us", "100000\n");
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 0);
    write(root / "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us", "200000\n");
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 2);
    write(root / "proc/self/cgroup", "nonsense\n::\n0::\n9:cpu:relative\n");
    CHECK(cgroup_quota(sys.c_str(), proc.c_str()) == 0);
}

TEST_CASE("two devices compute at once") {
    const uint64_t seed = fresh_seed();
    INFO("seed " << seed);
    Random random(seed);
    const auto quant = random_quant({"", 64, 48, groups_of(4, 64, 32)}, random);
    std::vector<std::thread> users;
    std::atomic<int32_t> good{0};
    for (int user = 0; user < 3; ++user) {
        users.emplace_back([&] {
            std::unique_ptr<Device> device;
            if (!make_cpu_device(2, &device).ok()) return;
            Matrix matrix;
            for (int i = 0; i < 20; ++i) good += device->pack(quant->source, &matrix).ok();
        });
    }
    for (std::thread& thread : users) thread.join();
    CHECK(good.load() == 60);
}
