// Command servers runs another command beside a throwaway Redis and PostgreSQL:
//
//	go run ./internal/testenv/cmd/servers [-install] -- go test ./...
//
// The command finds them by TEST_REDIS_URL and TEST_POSTGRES_URL; a variable that is
// set already is left alone. Its exit code becomes ours. With -install missing
// server programs are installed first when we are root on Debian or Ubuntu.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/handover-dev/handover/internal/testenv"
)

func main() {
	install := flag.Bool("install", false, "install missing servers with apt-get (as root)")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: servers [-install] -- command [argument...]")
		os.Exit(2)
	}
	err := run(*install, flag.Args())
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(max(1, exit.ExitCode())) // -1: ended by a signal
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "servers:", err)
		os.Exit(1)
	}
}

func run(install bool, command []string) error {
	if err := ensure(install); err != nil {
		return err
	}
	env := os.Environ()
	if os.Getenv(testenv.RedisURL) == "" {
		s, err := testenv.StartRedis(testenv.RedisOptions{})
		if err != nil {
			return err
		}
		defer s.Close()
		env = append(env, testenv.RedisURL+"="+s.URL())
	}
	if os.Getenv(testenv.PostgresURL) == "" {
		p, err := testenv.StartPostgres()
		if err != nil {
			return err
		}
		defer p.Close()
		env = append(env, testenv.PostgresURL+"="+p.URL())
	}

	cmd := exec.Command(command[0], command[1:]...) //nolint:noctx,gosec // the caller's command; signals end it
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = env, os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		for s := range signals {
			if s != os.Interrupt { // a terminal sends that one to both of us
				_ = cmd.Process.Signal(s)
			}
		}
	}()
	return cmd.Wait()
}

// ensure installs what is missing, or says what to run.
func ensure(install bool) error {
	missing := testenv.Missing()
	if len(missing) == 0 {
		return nil
	}
	var programs, packages []string
	for _, m := range missing {
		programs, packages = append(programs, m.Program), append(packages, m.Package)
	}
	args := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	apt, err := exec.LookPath("apt-get")
	if !install || err != nil || os.Geteuid() != 0 {
		return fmt.Errorf("not installed: %s; run as root: apt-get update && apt-get %s",
			strings.Join(programs, ", "), strings.Join(args, " "))
	}
	for _, args := range [][]string{{"update"}, args} {
		cmd := exec.Command(apt, args...) //nolint:noctx // package names of our own
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("apt-get %s: %w", args[0], err)
		}
	}
	if still := testenv.Missing(); len(still) > 0 {
		return still[0]
	}
	return nil
}
