#!/bin/bash
# A real SLURM cluster inside one machine, for the tests; as root. Each node has its own net, uts, pid and mount
# namespace (its own hostname, IP on a private bridge, processes, mounts); one munged and one slurmctld on the host.
#   cluster.sh install                        Debian's packages (ACCT=dbd: slurmdbd and MariaDB, too)
#   cluster.sh start|stop [--purge]|status|env    | cluster.sh exec nodeN CMD...
#   cluster.sh stop-controller | start-controller
#   cluster.sh kill-slurmd nodeN | start-slurmd nodeN | power-off nodeN | power-on nodeN | unplug nodeN | plug nodeN
# Knobs (environment): SLAB_DIR NODES CPUS GPUS ACCT(none|dbd) SLURMD_TIMEOUT MESSAGE_TIMEOUT CRED_EXPIRE KILL_WAIT
# Each start begins with no jobs; job ids start at a number made from the time, so old job folders never collide.
set -u
D=${SLAB_DIR:-/tmp/slurm-lab}
[ -f "$D/etc/knobs" ] && [ "${1:-}" != start ] && . "$D/etc/knobs"
NODES=${NODES:-2} CPUS=${CPUS:-4} GPUS=${GPUS:-2} ACCT=${ACCT:-none}
SLURMD_TIMEOUT=${SLURMD_TIMEOUT:-10} MESSAGE_TIMEOUT=${MESSAGE_TIMEOUT:-5}   # node death: DOWN after 15-20 s
CRED_EXPIRE=${CRED_EXPIRE:-5}   # least wait of a requeued job; 5 is the least valid (less = the default, 120)
KILL_WAIT=${KILL_WAIT:-5}
NET=10.77.0 BR=slabbr
export SLURM_CONF=$D/etc/slurm.conf
die() { echo "cluster: $*" >&2; exit 1; }
alive() { [ -n "${1:-}" ] || return 1; case $(ps -o stat= -p "$1" 2>/dev/null) in ''|Z*) return 1 ;; esac; }   # a container's pid 1 may reap zombies late
ours() { alive "${1:-}" && tr '\0' ' ' <"/proc/$1/cmdline" | grep -qE "$D/|^slurmdbd"; }   # guards against a reused pid
pidof_file() { cat "$D/run/$1.pid" 2>/dev/null; }
end() { # end NAME SIGNAL TIMEOUT_TENTHS: signal the pid in run/NAME.pid, wait, then KILL
  local p; p=$(pidof_file "$1"); ours "$p" || { rm -f "$D/run/$1.pid"; return 0; }
  kill -"$2" "$p"; for _ in $(seq "$3"); do alive "$p" || break; sleep 0.1; done
  alive "$p" && kill -KILL "$p"; rm -f "$D/run/$1.pid"; }
wait_for() { local n=$1; shift; for _ in $(seq "$n"); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done; return 1; }

packages() { echo "munge slurmctld slurmd slurm-client"; [ "$ACCT" = dbd ] && echo "slurmdbd mariadb-server"; }
installed() { dpkg -s $(packages) >/dev/null 2>&1; }
install() { local p; p=$(packages); installed && return
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $p >/dev/null || die "apt-get failed"; }

write_conf() {
  cat > "$SLURM_CONF" <<EOC
ClusterName=lab
SlurmctldHost=$(hostname -s)($NET.1)
SlurmctldPort=16817
FirstJobId=$(( $(date +%s) % 60000000 + 1 ))
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.sock,cred_expire=$CRED_EXPIRE
CredType=cred/munge
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmdPidFile=$D/run/slurmd-%n.nspid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=1
ReturnToService=2
JobRequeue=1
KillWait=$KILL_WAIT
UnkillableStepTimeout=20
MinJobAge=3600
SlurmctldTimeout=30
SlurmdTimeout=$SLURMD_TIMEOUT
BatchStartTimeout=10
MessageTimeout=$MESSAGE_TIMEOUT
TCPTimeout=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
GresTypes=gpu
NodeName=DEFAULT CPUs=$CPUS RealMemory=4000 Gres=gpu:$GPUS State=UNKNOWN
EOC
  for i in $(seq "$NODES"); do echo "NodeName=node$i NodeAddr=$NET.$((10+i))"; done >> "$SLURM_CONF"
  cat >> "$SLURM_CONF" <<EOC
PartitionName=main Nodes=ALL Default=YES PriorityTier=10 MaxTime=INFINITE State=UP
PartitionName=low  Nodes=ALL PriorityTier=1 GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=low-at-once Nodes=ALL PriorityTier=1 GraceTime=0 MaxTime=INFINITE State=UP
PartitionName=high Nodes=ALL PriorityTier=20 PreemptMode=OFF MaxTime=INFINITE State=UP
EOC
  printf 'AutoDetect=off\n' > "$D/etc/gres.conf"
  if [ "$GPUS" -gt 0 ]; then
    for g in $(seq 0 $((GPUS-1))); do rm -f "$D/dev/nvidia$g"; mknod "$D/dev/nvidia$g" c 1 3; done
    echo "Name=gpu Flags=nvidia_gpu_env File=$D/dev/nvidia[0-$((GPUS-1))]" >> "$D/etc/gres.conf"
  fi
  if [ "$ACCT" = dbd ]; then
    cat >> "$SLURM_CONF" <<EOC
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$NET.1
AccountingStoragePort=16819
AccountingStoragePass=$D/run/munge.sock
EOC
    ( umask 077; cat > "$D/etc/slurmdbd.conf" <<EOC
AuthType=auth/munge
AuthInfo=socket=$D/run/munge.sock
DbdHost=$(hostname -s)
DbdAddr=$NET.1
DbdPort=16819
SlurmUser=root
LogFile=$D/log/slurmdbd.log
PidFile=$D/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
EOC
    ); chmod 600 "$D/etc/slurmdbd.conf"
  else echo "AccountingStorageType=accounting_storage/none" >> "$SLURM_CONF"; fi
  { echo "127.0.0.1 localhost"; echo "$NET.1 $(hostname -s)"
    for i in $(seq "$NODES"); do echo "$NET.$((10+i)) node$i"; done; } > "$D/etc/hosts"
  cat > "$D/etc/node-init.sh" <<'EOC'
#!/bin/bash
# process 1 of a node: names the host, starts slurmd, then reaps orphans for ever
hostname "$1"; export SLURM_CONF=$2; exec </dev/null
mount --bind "$3/etc/hosts" /etc/hosts
mkdir -p "$3/run/cg-$1"; mount --rbind /sys/fs/cgroup "$3/run/cg-$1"       # slurmd 22.05 insists on a mounted
mount -t sysfs sysfs /sys; mount --rbind "$3/run/cg-$1" /sys/fs/cgroup     # cgroup fs even when it uses none
/usr/sbin/slurmd -f "$SLURM_CONF" -N "$1"
while :; do sleep 3600 & wait $!; done
EOC
  printf 'NODES=%q CPUS=%q GPUS=%q ACCT=%q\n' "$NODES" "$CPUS" "$GPUS" "$ACCT" > "$D/etc/knobs"; }

net_up() {
  ip route replace unreachable $NET.0/24 metric 4096   # stray calls after a stop never leave the machine
  ip link add $BR type bridge; ip addr add $NET.1/24 dev $BR; ip link set $BR up; }
node_net() { local i=$1 ns=slab$1
  ip netns add "$ns"; ip link add "slabv$i" type veth peer name eth0 netns "$ns"
  ip link set "slabv$i" master $BR up
  ip -n "$ns" link set lo up; ip -n "$ns" addr add "$NET.$((10+i))/24" dev eth0; ip -n "$ns" link set eth0 up; }
node_up() { local i=${1#node}
  mkdir -p "$D/spool/node$i"
  setsid nsenter --net="/run/netns/slab$i" unshare --mount --uts --pid --fork --mount-proc --kill-child=KILL \
    bash "$D/etc/node-init.sh" "node$i" "$SLURM_CONF" "$D" >"$D/log/node$i.init" 2>&1 </dev/null &
  local p=$!; echo $p > "$D/run/node$i.pid"
  wait_for 50 pgrep -P $p; pgrep -P $p > "$D/run/node$i.init.pid"; }
node_down() { local i=${1#node}; end "node$i" KILL 30; rm -f "$D/run/node$i.init.pid" "$D/run/slurmd-node$i.nspid"; }
node_exec() { local n=$1; shift; nsenter -t "$(pidof_file "$n.init")" -m -u -n -p -- "$@"; }

dbd_up() {
  chown mysql "$D/db"; local m=$D/db/data
  [ -d "$m" ] || mariadb-install-db --no-defaults --datadir="$m" --user=mysql --auth-root-authentication-method=socket \
      --skip-test-db >"$D/log/mariadb-install.log" 2>&1 || fail "mariadb-install-db"
  setsid mariadbd --no-defaults --datadir="$m" --user=mysql --socket="$D/db/mysql.sock" --skip-networking --pid-file="$D/db/mariadbd.pid" \
      --innodb-buffer-pool-size=64M --innodb-flush-log-at-trx-commit=0 --innodb-lock-wait-timeout=900 >"$D/log/mariadbd.log" 2>&1 </dev/null &
  echo $! > "$D/run/mariadbd.pid"
  wait_for 200 mariadb -S "$D/db/mysql.sock" -e 'select 1' || fail "mariadbd"
  mariadb -S "$D/db/mysql.sock" -e "create database if not exists slurm_acct_db; create user if not exists slurm@localhost identified by 'slurm'; grant all on slurm_acct_db.* to slurm@localhost"
  MYSQL_UNIX_PORT=$D/db/mysql.sock SLURM_CONF=$SLURM_CONF slurmdbd || fail slurmdbd
  wait_for 20 sacctmgr -n list cluster || fail "slurmdbd does not answer"; }

fail() { stop; die "$*"; }
start() {
  [ "$(id -u)" = 0 ] || die "needs root"
  [ -e "$D/run/slurmctld.pid" ] && alive "$(pidof_file slurmctld)" && die "already running"
  installed || die "SLURM is not installed: $0 install"
  stop; rm -rf "$D/state" "$D/spool" "$D/log"
  mkdir -p "$D"/{etc,run,log,state,spool,dev,db}; chmod 755 "$D" "$D"/*
  write_conf; net_up
  for i in $(seq "$NODES"); do node_net "$i"; done
  [ -f "$D/etc/munge.key" ] || ( umask 077; head -c 128 /dev/urandom > "$D/etc/munge.key" )
  munged --socket="$D/run/munge.sock" --key-file="$D/etc/munge.key" --pid-file="$D/run/munged.pid" \
         --log-file="$D/log/munged.log" --seed-file="$D/run/munge.seed" || fail munged
  [ "$ACCT" = dbd ] && dbd_up
  slurmctld -f "$SLURM_CONF" || fail slurmctld
  for i in $(seq "$NODES"); do node_up "$i"; done
  wait_for 300 ready || { sinfo -N; fail "nodes did not come up: see $D/log"; }
  sinfo -N -h -o '%N %T' | sort -u; }
ready() { [ "$(sinfo -h -N -p main -t idle -o %N 2>/dev/null | wc -l)" = "$NODES" ]; }

stop() { local f n
  end slurmctld TERM 100
  for f in "$D"/run/node*.init.pid; do [ -e "$f" ] && { n=${f##*/}; node_down "${n%.init.pid}"; }; done
  end slurmdbd TERM 100; end mariadbd TERM 100
  end munged TERM 50
  for n in $(ip netns list | awk '/^slab[0-9]/ {print $1}'); do ip netns del "$n"; ip link del "slabv${n#slab}" 2>/dev/null; done
  ip link del $BR 2>/dev/null
  [ "${1:-}" = --purge ] && { rm -rf --one-file-system "$D"; ip route del unreachable $NET.0/24 metric 4096 2>/dev/null; }
  return 0; }

case "${1:-}" in
  install) install ;;
  start) start ;;
  stop) stop "${2:-}" ;;
  status) sinfo -N -l; squeue ;;
  env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  exec) shift; node_exec "$@" ;;
  stop-controller) end slurmctld TERM 100 ;;
  start-controller) slurmctld -f "$SLURM_CONF" ;;
  kill-slurmd) node_exec "$2" bash -c "kill -KILL \$(cat $D/run/slurmd-$2.nspid)" ;;
  start-slurmd) node_exec "$2" env SLURM_CONF="$SLURM_CONF" /usr/sbin/slurmd -f "$SLURM_CONF" -N "$2" ;;
  power-off) node_down "$2" ;;
  power-on) node_up "$2" ;;
  unplug) ip link set "slabv${2#node}" down ;;
  plug) ip link set "slabv${2#node}" up; scontrol update "nodename=$2" state=resume ;;
  *) die "usage: $0 install|start|stop [--purge]|status|env|exec|stop-controller|start-controller|kill-slurmd|start-slurmd|power-off|power-on|unplug|plug [nodeN]" ;;
esac
