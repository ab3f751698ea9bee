# frozen_string_literal: true

# How fast Sidekiq drains jobs that are no work, for `bench/queue`: sidekiq_drain.rb REDIS_URL JOBS THREADS.
# Prints {"queued_per_sec":…,"drained_per_sec":…}.

require "sidekiq"
require "sidekiq/api"
require "sidekiq/cli"
require "sidekiq/launcher"

url, jobs, threads = ARGV[0], Integer(ARGV[1]), Integer(ARGV[2])
Sidekiq.configure_server { |config| config.redis = { url: url, size: threads + 5 } }
Sidekiq.configure_client { |config| config.redis = { url: url, size: threads + 5 } }
Redis.silence_deprecations = true if Redis.respond_to?(:silence_deprecations=)
Redis.sadd_returns_boolean = false if Redis.respond_to?(:sadd_returns_boolean=)
Sidekiq.logger.level = Logger::ERROR

# Does nothing.
class Nothing
  include Sidekiq::Worker
  sidekiq_options retry: 1, queue: "default"

  def perform(_number); end
end

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

began = now
jobs.times { |number| Nothing.perform_async(number) }
queued = jobs / (now - began)

options = Sidekiq.options.merge(queues: ["default"], concurrency: threads, timeout: 5, environment: "production")
launcher = Sidekiq::Launcher.new(options)
queue = Sidekiq::Queue.new("default")
began = now
launcher.run
sleep 0.001 until queue.size.zero?
drained = jobs / (now - began)
puts format('{"queued_per_sec":%.0f,"drained_per_sec":%.0f}', queued, drained)
$stdout.flush
exit!(0)
